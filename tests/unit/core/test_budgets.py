"""Restart budgets and back-off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.core.jobs import Job, Restart
from controlplane.core.recovery.budgets import backoff_ns, budget_for, jittered_ns, read_budget
from controlplane.core.spec import UNLIMITED, Backoff, Budget, RestartPolicy
from controlplane.core.units import NS_PER_S, ms
from controlplane.core.vocabulary import Blame, JobState
from tests.support.world import spec

NOW = 10_000 * NS_PER_S
POLICY = RestartPolicy(
    user=Budget(3, 60_000, 100), infrastructure=Budget(2, 60_000), preemption=Budget(UNLIMITED, 60_000)
)


def job(*restarts: Restart) -> Job:
    return Job("moe", "moe-1", 1, spec(restart_policy=POLICY), JobState.RECOVERING, 0, restarts=restarts)


def charge(blame: Blame, age_s: float, step: int = 0) -> Restart:
    return Restart(blame, NOW - round(age_s * NS_PER_S), step)


@pytest.mark.parametrize(
    ("restarts", "step", "used"),
    [
        ([], 0, 0),
        ([charge(Blame.USER, 1)], 0, 1),
        ([charge(Blame.USER, 59.9), charge(Blame.USER, 60), charge(Blame.USER, 61)], 0, 1),
        ([charge(Blame.INFRASTRUCTURE, 1)], 0, 0),
        # new progress gives the charge back, exactly from the limit on
        ([charge(Blame.USER, 1, step=10)], 109, 1),
        ([charge(Blame.USER, 1, step=10)], 110, 0),
        # a rollback takes the progress away again
        ([charge(Blame.USER, 1, step=10), charge(Blame.USER, 2, step=200)], 150, 1),
    ],
)
def test_window_and_progress(restarts: list[Restart], step: int, used: int) -> None:
    reading = read_budget(job(*restarts), Blame.USER, NOW, step)
    assert reading.used == used
    assert reading.allows == (used < 3)


def test_spent_budget_says_so() -> None:
    reading = read_budget(job(*[charge(Blame.USER, age) for age in (1, 2, 3)]), Blame.USER, NOW, 0)
    assert not reading.allows
    assert str(reading) == "user: 3 of 3 used in 60 s"


def test_infrastructure_is_not_given_back_by_progress() -> None:
    reading = read_budget(job(charge(Blame.INFRASTRUCTURE, 1)), Blame.INFRASTRUCTURE, NOW, 10**6)
    assert reading.used == 1


def test_unlimited_never_ends() -> None:
    reading = read_budget(job(*[charge(Blame.PREEMPTION, 1)] * 500), Blame.PREEMPTION, NOW, 0)
    assert reading.allows
    assert "unlimited" in str(reading)


@pytest.mark.parametrize("blame", list(Blame))
def test_every_ledger_has_its_budget(blame: Blame) -> None:
    assert budget_for(POLICY, blame) is getattr(POLICY, blame.value)


@pytest.mark.parametrize(
    ("nth", "expected_ms"), [(0, 0), (-1, 0), (1, 500), (2, 1_000), (3, 2_000), (4, 3_000), (99, 3_000)]
)
def test_backoff_grows_to_its_limit(nth: int, expected_ms: int) -> None:
    assert backoff_ns(Backoff(500, 2.0, 3_000), nth) == ms(expected_ms)


@given(st.integers(1, 10_000), st.floats(1.0, 10.0), st.integers(1, 10**9), st.integers(0, 10**9))
def test_backoff_never_shrinks_nor_exceeds(initial: int, factor: float, limit: int, nth: int) -> None:
    backoff = Backoff(initial, factor, limit)
    assert backoff_ns(backoff, nth) <= backoff_ns(backoff, nth + 1) <= ms(limit)


def test_progress_that_cannot_be_read_is_not_no_progress() -> None:
    """A controller that has just begun does not know yet how far the job is: it does not end it for that."""
    owed = job(*[charge(Blame.USER, age, step=10) for age in (1, 2, 3)])
    reading = read_budget(owed, Blame.USER, NOW, 10, known=False)
    assert reading.allows
    assert str(reading) == "user: 0 of 3 used in 60 s, 3 more not counted because progress cannot be read"
    assert not read_budget(owed, Blame.USER, NOW, 10).allows
    machine = job(*[charge(Blame.INFRASTRUCTURE, age) for age in (1, 2)])
    assert not read_budget(machine, Blame.INFRASTRUCTURE, NOW, 0, known=False).allows, (
        "progress gives nothing back here"
    )


def test_jitter_only_shortens_and_spreads_the_jobs_of_one_turn() -> None:
    waits = [jittered_ns(1_000_000, 0.2, 0.25, serial) for serial in range(100)]
    assert all(800_000 < wait <= 1_000_000 for wait in waits)
    assert len({wait // 2_000 for wait in waits}) > 80, "no two jobs of a turn come back together"
    assert jittered_ns(1_000_000, 0.2, 0.0, 7) == 1_000_000, "nothing was drawn"
    assert jittered_ns(1_000_000, 0.0, 0.5, 7) == 1_000_000
