"""The example that docs/writing-a-workload.md makes of a plain script: a killed rank changes no bit of its weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import training_jobs.examples.charlm
from tests.fixtures.rank_fake_agent import RankSite

STEPS, EVERY = 40, 3
FOLDER = str(Path(training_jobs.examples.charlm.__file__).parent)


def in_generation(site: RankSite, host: str, generation: int) -> bool:
    return site.agent.hosts[host].statuses[-1].generation == generation


def test_a_killed_rank_changes_no_bit() -> None:
    with RankSite("train", {"steps": STEPS, "batch_size": 64, "step_floor_ms": 5}, path=FOLDER) as site:
        site.announce(site.take(2), every_steps=EVERY)
        undisturbed = site.results()
        assert undisturbed[0] == undisturbed[1]
        assert undisturbed[0]["steps"] == str(STEPS)
        first, second, spare = site.take(3)
        site.agent.ack_finals = False  # who has finished before the kill, on a busy machine, stays for what comes
        site.announce([first, second], every_steps=EVERY)
        point = site.wait_committed(21)  # in the second epoch
        site.kill(second)
        generation = site.announce([first, spare], restore=point, every_steps=EVERY)
        for host in (first, spare):
            site.agent.wait(f"{host} is in it", partial(in_generation, site, host, generation))
        site.agent.ack_finals = True
        assert site.results() == undisturbed
