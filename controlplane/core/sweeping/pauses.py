"""Ranks that say that they cannot go on, while nobody is reported lost: a collective failed and everybody lives.

A link that flapped, or a device that had to repeat something, leaves every process and its state as they were: the step is
done again. What is lost shows itself within the patience, which is longer than it takes to believe a node DEAD.
"""

from __future__ import annotations

import numpy as np

from controlplane.core.draft import Draft, Policy
from controlplane.core.evidence import Reason
from controlplane.core.jobs import Job
from controlplane.core.observing.losses import lose_ranks
from controlplane.core.units import NS_PER_S, ms, seconds
from controlplane.core.vocabulary import JobState, NodeLiveness

LEASES = 3
"""One for the silence, one for the second witness, one to spare."""


def pause(draft: Draft, job: Job) -> None:
    """Give up a generation whose ranks have waited too long for a peer that nobody misses."""
    if job.state is not JobState.RUNNING or job.incident is not None:
        return
    since_ns = since(job, draft.soft.trusted_since_ns())
    if since_ns is None:
        return
    quiet_ns = draft.now_ns - since_ns - draft.excused_ns(since_ns)
    if quiet_ns <= patience_ns(draft.policy) or not _all_seen(draft, job):
        return
    count = len(_waiting(job))
    cause = f"{count} rank{'s' * (count > 1)} cannot go on for {quiet_ns / NS_PER_S:.0f} s, and nobody is lost"
    lose_ranks(draft, job, (), cause, Reason.COLLECTIVE_FAILED, intact=True, since_ns=since_ns)


def patience_ns(policy: Policy) -> int:
    """How long ranks may wait. Never shorter than it takes to believe a silent node DEAD: `LEASES` leases."""
    return max(ms(policy.ladder.pause_patience_ms), seconds(LEASES * policy.suspicion.lease_s))


def _waiting(job: Job) -> np.ndarray:
    """Rows of processes that hold a rank of the current generation and cannot go on."""
    paused = job.hosts.paused
    rows: np.ndarray = paused[job.hosts.generation[paused] == job.generation]
    return rows


def since(job: Job, trusted_ns: int) -> int | None:
    """Since when ranks wait, Unix ns, not before `trusted_ns`; None: none does."""
    waiting = _waiting(job)
    if not len(waiting):
        return None
    return max(ms(int(job.hosts.since_ms[waiting].min())), job.clock.running_ns, trusted_ns)


def _all_seen(draft: Draft, job: Job) -> bool:
    """Whether every node of the job is ALIVE and talks to us: else the loss that they wait for may not have been told yet."""
    nodes = np.array(job.nodes(), dtype=np.int64)
    fleet = draft.fleet
    return bool((fleet.session[nodes] & (fleet.liveness[nodes] == NodeLiveness.ALIVE)).all())
