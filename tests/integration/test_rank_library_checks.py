"""Checks of results in real rank processes: a flipped bit ends the process that holds it, and nobody hangs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agents.rank.errors import EXIT_DISAGREED_ONCE
from tests.fixtures.rank_fake_agent import RankSite
from tests.integration.test_rank_library_moe import ARGS, EVERY, final_digest

CHECKED = {**ARGS, "check_every": 3, "replay_rate": 0.25, "seed": 1232}


@pytest.fixture
def site() -> Iterator[RankSite]:
    """Trainers of which one has a bit flipped in generation 1."""
    flip = "weights/experts/rank=2/step=7/bit=0/index=11"
    with RankSite("training_jobs.moe.train", {**CHECKED, "flip": flip}) as site:
        site.pool = 5
        site.agent.ack_finals = False
        yield site


def left(site: RankSite, host: str) -> int:
    """Exit code of a process that ends by itself."""
    return site.agent.wait(f"{host} leaves", lambda: (code := site.processes[host].poll()) is not None and (code or -1))


def test_a_bit_in_the_weights_is_found_and_the_job_ends_with_undisturbed_bits(site: RankSite) -> None:
    a, b, c, d, spare = site.take(5)
    site.announce([a, b, c, d], ep=2, every_steps=EVERY)
    assert left(site, c) == EXIT_DISAGREED_ONCE
    log = site.tail(c)
    assert "step 7: replicas of the experts hold different state, not again when the steps were done again" in log
    assert "rank 2 differs from the others" in log
    assert "last alike after step 6" in log
    assert 8 not in site.committed(1), "what was about to be saved was compared first"
    point = site.wait_committed(4)
    site.announce([a, b, spare, d], ep=2, every_steps=EVERY, restore=point)
    digest = final_digest(site)
    site.announce([a, b, spare, d], ep=2, every_steps=EVERY)  # from the start, nothing flipped
    assert final_digest(site) == digest
