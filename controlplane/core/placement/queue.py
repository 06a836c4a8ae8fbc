"""Whose turn it is. Pure.

Queued jobs are placed by priority, then in the order of submission. A job behind may go first while the ones before it do
not fit; but once a job has waited for `patience`, nothing of its own or a lower priority goes past it any more: freed
devices then gather for it. A stream of jobs with a higher priority can keep it waiting for ever; that is what they ask for.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from controlplane.core.fleet import FREE, Fleet
from controlplane.core.jobs import Job
from controlplane.core.placement.gang import Blocked, place
from controlplane.core.state import free_devices
from controlplane.core.vocabulary import JobState

TRIED = 16
"""Jobs ahead whose placement is worked out; those further ahead than that are taken not to fit."""


def ahead_of(job: Job, jobs: Iterable[Job]) -> list[Job]:
    """Queued jobs whose turn comes before a job's, first in the queue first."""
    order = (-job.spec.priority, job.serial)
    waiting = (other for other in jobs if other.state is JobState.QUEUED and other.ending is None)
    return sorted(
        (other for other in waiting if (-other.spec.priority, other.serial) < order),
        key=lambda other: (-other.spec.priority, other.serial),
    )


def must_yield_to(job: Job, jobs: Iterable[Job], fleet: Fleet, now_ns: int, patience_ns: int) -> Job | None:
    """The job that a queued job has to let pass or wait for; None when it may be placed now."""
    ahead = ahead_of(job, jobs)
    if not ahead:
        return None
    overdue = next((other for other in ahead if now_ns - other.submitted_ns >= patience_ns), None)
    if overdue is not None:
        return overdue
    free = int(np.count_nonzero(free_devices(fleet) & (fleet.reserved == FREE)[:, None]))
    for other in [other for other in ahead if other.spec.ranks * other.spec.accelerators_per_rank <= free][:TRIED]:
        if not isinstance(place(fleet, other.spec), Blocked):
            return other
    return None
