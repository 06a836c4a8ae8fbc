"""Scripts of docs/writing-a-workload.md: sixty lines of DDP, and one for torchrun with two calls more, through a kill."""

from __future__ import annotations

from pathlib import Path

import training_jobs.examples
from agents.rank.errors import EXIT_PEER_LOST
from tests.fixtures.rank_fake_agent import RankSite

EXAMPLES = Path(training_jobs.examples.__file__).parent


def weights(site: RankSite) -> str:
    """Of the final state of this generation; all ranks agree."""

    def found(host: str) -> str | None:
        site.alive(host)
        finals = site.agent.hosts[host].finals
        return finals[-1].result["weights_sha256"] if finals and finals[-1].generation == site.generation else None

    (word,) = {site.agent.wait(f"{host} finishes", lambda host=host: found(host)) for host in site.members}
    return word


def test_sixty_lines_of_ddp_lose_no_bit_to_a_kill() -> None:
    with RankSite("train", {"steps": 40, "step_floor_ms": 10}, path=str(EXAMPLES / "ddp")) as site:
        site.agent.ack_finals = False  # whoever has finished stays for the next generation
        first, second, spare = site.take(3)
        site.announce([first, second], every_steps=5)
        undisturbed = weights(site)
        generation = site.announce([first, second], every_steps=1_000)
        site.wait_step(3)
        site.agent.save_now(second, generation)
        points = site.agent.wait("a save on request", lambda: site.committed(generation))
        ((step, point),) = points.items()
        site.kill(second)
        site.announce([first, spare], restore=point, every_steps=5)
        site.wait_step(step + 1)
        assert weights(site) == undisturbed


def test_a_script_for_torchrun_goes_on_where_its_newest_checkpoint_ends() -> None:
    """A killed rank ends the others, with the code that blames nobody; new processes start from the file that is put back.
    A script that fails by itself looks like no lost peer: that would be started again for ever."""
    args = {"script": "train.py", "argv": ["--steps", "60", "--save-every", "10", "--batch-size", "64"]}
    with RankSite("agents.rank.script", args, path=str(EXAMPLES / "torchrun")) as site:
        first, second, third, fourth, fifth = site.take(5)
        site.announce([first, second], every_steps=10)
        point = site.wait_committed(20)
        site.kill(second)
        assert site.processes[first].wait(60) in (EXIT_PEER_LOST, 0)
        (site.checkpoints / "checkpoint.pt").write_bytes(b"torn: it was being written when its rank died")
        site.announce([third, fourth], restore=point, every_steps=10)
        assert [result["script"] for result in site.results()] == ["train.py"] * 2
        assert f"is that of step {point.step} again" in site.tail(third)
        told = [line for line in site.tail(third).splitlines() if line.startswith("step ")]
        assert told[0].startswith(f"step {point.step + 10} ")
        assert told[-1].startswith("step 60 ")
        assert 60 in site.committed(site.generation)
        (site.checkpoints / "checkpoint.pt").write_bytes(b"no checkpoint")
        site.announce([fifth])
        assert site.processes[fifth].wait(60) == 1
        assert "Error" in site.tail(fifth)
