"""Prices of recorded verdicts: what happened, what another rung would have cost, and from which measurements."""

from __future__ import annotations

import pytest

from controlplane.core import records as r
from controlplane.core.recovery.prices import PriceBook
from controlplane.core.units import seconds
from controlplane.core.vocabulary import Blame, Phase, Rung
from controlplane.sim.rung_times import PARTS, published
from tests.support.world import spec

PUBLISHED = {
    Rung.RESTART_RANK: (10.0, 20.0, 30.0),
    Rung.REPLACE_RANK: (12.0, 22.0, 90.0),
    Rung.RESTART_JOB: (300.0, 500.0, 900.0),
}


class History:
    """Records of one job of 4 ranks with one accelerator each: a step a second, one checkpoint in ten."""

    def __init__(self) -> None:
        self.book, self.now_s, self.revision = PriceBook(PUBLISHED), 1_000.0, 0
        self.tell(r.JobSubmitted("moe-1", "moe", 1, spec("moe", 4)))
        self.tell(r.GenerationStarted("moe-1", 1, (), (), "", 0))
        self.first_step()

    def tell(self, record: r.Record) -> int:
        self.revision += 1
        self.book.tell(self.revision, seconds(self.now_s), record)
        return self.revision

    def first_step(self) -> None:
        self.tell(r.GenerationReached("moe-1", 1, Phase.FIRST_STEP, seconds(self.now_s)))

    def saved(self, step: int) -> None:
        self.tell(r.CheckpointCommitted("moe-1", f"moe-1/g1/step-{step}", step))

    def verdict(self, rung: Rung, step: int, restored: int = -1, took_s: float = 0.0) -> int:
        """A verdict at a step; with `restored`, the job is back `took_s` later."""
        self.tell(r.RanksLost("moe-1", (), 0, step, "why"))
        revision = self.tell(
            r.RecoveryDecided(
                "moe-1",
                rung,
                "why",
                (),
                Blame.USER,
                charged=True,
                step=step,
                not_before_ns=0,
                tried=(),
                budgets=(),
                evidence=(),
            )
        )
        if restored >= 0:
            self.tell(r.GenerationStarted("moe-1", 2, (), (), "", restored))
            self.now_s += took_s
            self.first_step()
        return revision


def test_what_happened_has_one_price() -> None:
    history = History()
    history.saved(10)
    history.now_s += 14.0
    revision = history.verdict(Rung.RESTART_RANK, step=14, restored=10, took_s=6.0)
    price = history.book.was(revision)
    assert price is not None
    assert (price.low, price.expected, price.high, price.source) == (40.0, 40.0, 40.0, "what happened")


def test_another_rung_costs_what_is_published_until_enough_was_measured() -> None:
    history = History()
    history.saved(10)
    history.now_s += 14.0
    revision = history.verdict(Rung.RESTART_RANK, step=14, restored=10, took_s=6.0)
    job = history.book.would_be(revision, Rung.RESTART_JOB)
    assert job is not None
    assert (job.low, job.expected, job.high, job.source) == (1_216.0, 2_016.0, 3_616.0, "published")
    for took_s in (50.0, 70.0, 60.0):
        history.verdict(Rung.RESTART_JOB, step=10, restored=10, took_s=took_s)
    job = history.book.would_be(revision, Rung.RESTART_JOB)
    assert job is not None
    assert (job.low, job.expected, job.high, job.source) == (216.0, 256.0, 296.0, "measured")


def test_passing_over_checkpoints_costs_the_work_between_them() -> None:
    history = History()
    for step in (10, 20):
        history.saved(step)
    history.now_s += 24.0
    revision = history.verdict(Rung.RESTART_RANK, step=24, restored=20, took_s=6.0)
    prices = [history.book.would_be(revision, Rung.RESTART_RANK, back) for back in (0, 1, 2)]
    assert [price.expected for price in prices if price] == [4 * (20.0 + lost) for lost in (4, 14, 24)]


def test_a_retried_step_loses_nothing_and_an_unknown_ladder_has_a_range() -> None:
    history = History()
    history.saved(10)
    history.now_s += 14.0
    revision = history.verdict(Rung.RESTART_RANK, step=14, restored=10, took_s=6.0)
    history.book.published = {**PUBLISHED, Rung.RETRY_STEP: (1.0, 2.0, 3.0)}
    retry = history.book.would_be(revision, Rung.RETRY_STEP)
    ladder = history.book.would_be(revision, None)
    assert retry is not None
    assert ladder is not None
    assert (retry.low, retry.expected, retry.high) == (4.0, 8.0, 12.0)
    assert (ladder.low, ladder.expected, ladder.high) == (56.0, 104.0, 3_616.0)


def test_what_ends_or_never_came_back_has_no_price_or_a_range() -> None:
    history = History()
    history.now_s += 10.0
    overtaken = history.verdict(Rung.RESTART_RANK, step=10)
    failed = history.verdict(Rung.FAIL, step=10)
    price = history.book.was(overtaken)
    assert price is not None
    assert price.low < price.high
    assert history.book.was(failed) is None
    assert history.book.would_be(overtaken, Rung.SUSPEND) is None
    assert history.book.was(999) is None


def test_a_job_whose_beginning_is_gone_is_passed_over() -> None:
    book = PriceBook(PUBLISHED)
    book.tell(1, 1, r.CheckpointCommitted("gone-1", "gone-1/g1/step-1", 1))
    assert book.was(1) is None


@pytest.mark.parametrize("rung", sorted(set(Rung) - {Rung.FAIL, Rung.SUSPEND}))
def test_every_rung_that_keeps_the_job_going_has_a_published_price(rung: Rung) -> None:
    low, expected, high = published()[rung]
    assert rung in PARTS
    assert 0 < low <= expected <= high
