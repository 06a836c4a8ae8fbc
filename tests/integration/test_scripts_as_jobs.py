"""Scripts of docs/writing-a-workload.md: sixty lines of DDP, and one for torchrun with two calls more, through a kill."""

from __future__ import annotations

from pathlib import Path

import training_jobs.examples
from agents.rank.errors import EXIT_PEER_LOST
from tests.fixtures.rank_fake_agent import RankSite

EXAMPLES = Path(training_jobs.examples.__file__).parent


def test_sixty_lines_of_ddp_lose_no_bit_to_a_kill() -> None:
    with RankSite("train", {"steps": 40, "step_floor_ms": 10}, path=str(EXAMPLES / "ddp")) as site:
        site.announce(site.take(2), every_steps=5)
        undisturbed = site.results()
        assert undisturbed[0] == undisturbed[1]
        first, second, spare = site.take(3)
        site.agent.ack_finals = False
        generation = site.announce([first, second], every_steps=1_000)
        site.wait_step(3)
        site.agent.save_now(second, generation)
        points = site.agent.wait("a save on request", lambda: site.committed(generation))
        ((step, point),) = points.items()
        site.kill(second)
        generation = site.announce([first, spare], restore=point, every_steps=5)
        site.wait_step(step + 1)
        site.agent.ack_finals = True
        assert site.results() == undisturbed


def test_a_script_for_torchrun_goes_on_where_its_newest_checkpoint_ends() -> None:
    """A killed rank ends the others, with the code that blames nobody; new processes start from the file that is put back."""
    args = {"script": "train.py", "argv": ["--steps", "60", "--save-every", "10", "--batch-size", "64"]}
    with RankSite("agents.rank.script", args, path=str(EXAMPLES / "torchrun")) as site:
        first, second = site.take(2)
        site.announce([first, second], every_steps=10)
        point = site.wait_committed(20)
        site.kill(second)
        assert site.processes[first].wait(60) in (EXIT_PEER_LOST, 0)
        (site.checkpoints / "checkpoint.pt").write_bytes(b"torn: it was being written when its rank died")
        third, fourth = site.take(2)
        site.announce([third, fourth], restore=point, every_steps=10)
        assert [result["script"] for result in site.results()] == ["train.py"] * 2
        assert f"is that of step {point.step} again" in site.tail(third)
        told = [line for line in site.tail(third).splitlines() if line.startswith("step ")]
        assert told[0].startswith(f"step {point.step + 10} ")
        assert told[-1].startswith("step 60 ")
        assert 60 in site.committed(site.generation)


def test_a_script_that_fails_by_itself_has_failed() -> None:
    """Nothing of it may look like the loss of a peer: that would be started again for ever."""
    args = {"script": "train.py", "argv": ["--steps", "sixty"]}
    with RankSite("agents.rank.script", args, path=str(EXAMPLES / "torchrun")) as site:
        (host,) = site.take(1)
        site.announce([host])
        assert site.processes[host].wait(60) == 2, "what argparse leaves with"
        assert "invalid int value: 'sixty'" in site.tail(host)
