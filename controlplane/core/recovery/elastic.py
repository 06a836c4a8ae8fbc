"""Which data-parallel replicas leave and come back. Pure; columns over ranks.

Ranks are numbered tp innermost, then cp, dp, pp (`agents.rank.assignment`). The experts of a model are spread over `ep`
neighbouring replicas: those hold one copy of them together, and none of them is of use without the others. Such a set is
the unit that leaves and comes back; without expert parallelism it is one replica.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from controlplane.core.fleet import Fleet
from controlplane.core.jobs import Job
from controlplane.core.placement.gang import Blocked, Placement, replace_ranks
from controlplane.core.spec import JobSpec


def replica_of(spec: JobSpec) -> np.ndarray:
    """(ranks,) dp coordinate of each rank. The degrees must be complete: tp x pp x cp x dp = ranks."""
    degrees = spec.parallel
    return np.arange(spec.ranks) // (degrees.tp * degrees.cp) % max(1, degrees.dp)


def set_of(spec: JobSpec) -> np.ndarray:
    """(ranks,) number of the set of replicas that each rank belongs to: those that share one copy of the experts."""
    return replica_of(spec) // max(1, spec.parallel.ep)


def replicas(job: Job) -> int:
    """Replicas that take part."""
    return len(np.unique(replica_of(job.spec)[job.present]))


def absent_replicas(job: Job) -> tuple[int, ...]:
    """Replicas that do not take part, by their dp coordinate."""
    return tuple(np.unique(replica_of(job.spec)[~job.present]).tolist())


@dataclass(frozen=True, slots=True)
class Shrink:
    """Replicas that go, by dp coordinate, and new places for the `moved` ranks of those that stay."""

    dropped: tuple[int, ...]
    moved: tuple[int, ...]
    moves: Placement | None


def shrink(job: Job, fleet: Fleet, homeless: tuple[int, ...], avoid: frozenset[int]) -> Shrink | Blocked:
    """The fewest replicas that must go so that every other one is whole.

    The sets that miss the most places go first: what they leave behind makes room for ranks of the others, so that a lost
    node of each of two replicas costs one replica, not two.

    Args:
        job: a placed job.
        fleet: nodes and devices as believed now.
        homeless: ranks that need another place.
        avoid: nodes on which nothing may start.
    """
    least = job.spec.elastic.min_replicas
    if not least:
        return Blocked("the job must run with all its replicas (`elastic.minReplicas` is not set)")
    each = max(1, job.spec.parallel.ep)
    sets = set_of(job.spec)
    there = np.unique(sets[job.present])
    at = np.array(homeless, dtype=np.int64)
    missing = np.bincount(sets[at], minlength=int(sets.max(initial=-1)) + 1)
    order = there[np.lexsort((-there, -missing[there]))]

    def without(gone: int) -> Shrink | Blocked:
        dropped = np.isin(sets, order[:gone])
        kept = tuple(at[~dropped[at]].tolist())
        moves = replace_ranks(fleet, job, kept, avoid, np.flatnonzero(dropped & job.present)) if kept else None
        if isinstance(moves, Blocked):
            return moves
        return Shrink(tuple(np.unique(replica_of(job.spec)[dropped]).tolist()), kept, moves)

    most = len(there) + (-least // each)
    found = 1 + bisect_left(range(1, most + 1), 1, key=lambda gone: isinstance(without(gone), Shrink))
    plan = without(found) if found <= most else None
    if isinstance(plan, Shrink):
        return plan
    sharing = f", {each} share one copy of the experts" if each > 1 else ""
    return Blocked(
        f"{len(there) * each} replicas take part{sharing}, at least {least} must, "
        f"and what is left makes no {max(least, (len(there) - most) * each)} whole ones"
    )


@dataclass(frozen=True, slots=True)
class Growth:
    """Replicas that come back, by dp coordinate, their ranks, and the places of these."""

    replicas: tuple[int, ...]
    ranks: tuple[int, ...]
    moves: Placement


def grow(job: Job, fleet: Fleet) -> Growth | None:
    """As many whole sets of absent replicas as there is room for now; None: not even one."""
    sets = set_of(job.spec)
    absent = np.unique(sets[~job.present])
    for count in range(len(absent), 0, -1):
        back = np.isin(sets, absent[:count])
        ranks = tuple(np.flatnonzero(back).tolist())
        moves = replace_ranks(fleet, job, ranks, frozenset())
        if not isinstance(moves, Blocked):
            return Growth(tuple(np.unique(replica_of(job.spec)[back]).tolist()), ranks, moves)
    return None
