"""The example that docs/your-own-job.md makes of a plain script: a killed rank changes no bit of its weights."""

from __future__ import annotations

from pathlib import Path

import training_jobs.examples.charlm
from tests.fixtures.rank_fake_agent import RankSite

STEPS, EVERY = 40, 3
FOLDER = str(Path(training_jobs.examples.charlm.__file__).parent)


def test_a_killed_rank_changes_no_bit() -> None:
    with RankSite("train", {"steps": STEPS, "batch_size": 64, "step_floor_ms": 5}, path=FOLDER) as site:
        site.announce(site.take(2), every_steps=EVERY)
        undisturbed = site.results()
        assert undisturbed[0] == undisturbed[1]
        assert undisturbed[0]["steps"] == str(STEPS)
        first, second, spare = site.take(3)
        site.announce([first, second], every_steps=EVERY)
        point = site.wait_committed(21)  # in the second epoch
        site.kill(second)
        site.announce([first, spare], restore=point, every_steps=EVERY)
        assert site.results() == undisturbed
