"""Restart budgets: sliding windows per ledger, given back by progress. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.core.jobs import Job
from controlplane.core.spec import UNLIMITED, Backoff, Budget, RestartPolicy
from controlplane.core.units import ms
from controlplane.core.vocabulary import Blame


@dataclass(frozen=True, slots=True)
class Reading:
    """What a budget says now: charges that count, and whether one more is allowed.

    `unread`: charges that progress may have given back, but nobody can say how far the job is: they do not count. That is
    bounded: once the job runs again its steps are told, and the next reading is sure.
    """

    blame: Blame
    used: int
    max: int
    window_ms: int
    unread: int = 0

    @property
    def allows(self) -> bool:
        """Whether one more restart may be charged."""
        return self.max == UNLIMITED or self.used < self.max

    def __str__(self) -> str:
        limit = "unlimited" if self.max == UNLIMITED else str(self.max)
        unread = f", {self.unread} more not counted because progress cannot be read" if self.unread else ""
        return f"{self.blame}: {self.used} of {limit} used in {self.window_ms / 1000:g} s{unread}"


def budget_for(policy: RestartPolicy, blame: Blame) -> Budget:
    """The budget that a ledger is read against."""
    match blame:
        case Blame.USER:
            return policy.user
        case Blame.INFRASTRUCTURE:
            return policy.infrastructure
        case Blame.PREEMPTION:
            return policy.preemption


def read_budget(job: Job, blame: Blame, now_ns: int, step: int, *, known: bool = True) -> Reading:
    """Charges inside the window that progress has not given back. `step`: the newest step proven by the job's ranks; not
    `known`: nobody could tell since the job ran, and it is only a lower bound."""
    budget = budget_for(job.spec.restart_policy, blame)
    since = now_ns - ms(budget.window_ms)
    used = sum(
        1
        for charge in job.restarts
        if charge.blame is blame
        and charge.at_ns > since
        and not (budget.reset_on_progress and step - charge.step >= budget.reset_on_progress)
    )
    if not known and budget.reset_on_progress:
        return Reading(blame, 0, budget.max, budget.window_ms, unread=used)
    return Reading(blame, used, budget.max, budget.window_ms)


def backoff_ns(backoff: Backoff, nth: int) -> int:
    """Waiting time before the n-th restart in a row (n from 1), nanoseconds."""
    if nth <= 0:
        return 0
    grown = backoff.initial_ms * backoff.factor ** min(nth - 1, 64)
    return ms(int(min(grown, backoff.max_ms)))


GOLDEN = 0.618_033_988_749_895


def jittered_ns(wait_ns: int, jitter: float, draw: float, serial: int) -> int:
    """A wait shortened by a part of up to `jitter`.

    `draw`: random in [0, 1), one for the whole turn; multiples of the golden ratio by the job's `serial` spread the jobs of
    one turn evenly over the range (Weyl's sequence).
    """
    return wait_ns - int(wait_ns * jitter * ((draw + GOLDEN * serial) % 1.0)) if draw else wait_ns
