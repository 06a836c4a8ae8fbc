"""Which data-parallel replicas leave and come back. Pure; columns over ranks.

Ranks are numbered tp innermost, then cp, dp, pp (`agents.rank.assignment`). The experts of a model are spread over `ep`
neighbouring replicas: those hold one copy of them together, and none of them is of use without the others. Such a set is
the unit that leaves and comes back; without expert parallelism it is one replica.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controlplane.core.fleet import Fleet
from controlplane.core.jobs import Job
from controlplane.core.placement.gang import Blocked, Placement, replace_ranks, room, seats
from controlplane.core.spec import JobSpec


def replica_of(spec: JobSpec) -> np.ndarray:
    """(ranks,) dp coordinate of each rank. The degrees must be complete: tp x pp x cp x dp = ranks."""
    degrees = spec.parallel
    return np.arange(spec.ranks) // (degrees.tp * degrees.cp) % max(1, degrees.dp)


def in_replicas(spec: JobSpec, chosen: Sequence[int]) -> np.ndarray:
    """Mask over ranks: those of these replicas (dp coordinates)."""
    wanted = np.zeros(max(1, spec.parallel.dp), dtype=np.bool_)
    wanted[list(chosen)] = True
    mask: np.ndarray = wanted[replica_of(spec)]
    return mask


def _distinct(numbers: np.ndarray) -> np.ndarray:
    """The different numbers of a column of small ones, ascending. Many times faster than a sort or a hash."""
    return np.flatnonzero(np.bincount(numbers))


def set_of(spec: JobSpec) -> np.ndarray:
    """(ranks,) number of the set of replicas that each rank belongs to: those that share one copy of the experts."""
    return replica_of(spec) // max(1, spec.parallel.ep)


def replicas(job: Job) -> int:
    """Replicas that take part."""
    return len(_distinct(replica_of(job.spec)[job.present]))


@dataclass(frozen=True, slots=True)
class Shrink:
    """Replicas that go, by dp coordinate, and new places for the `moved` ranks of those that stay."""

    dropped: tuple[int, ...]
    moved: tuple[int, ...]
    moves: Placement | None


def shrink(job: Job, fleet: Fleet, homeless: np.ndarray, avoid: frozenset[int]) -> Shrink | Blocked:
    """The fewest replicas that must go so that every other one is whole.

    The sets that miss the most places go first, of those the ones that leave the most room behind: it makes the others
    whole, so that a lost node of each of two replicas costs one replica, not two.

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
    there = _distinct(sets[job.present])
    missing = np.bincount(sets[homeless], minlength=int(sets.max(initial=-1)) + 1)
    usable = fleet.schedulable()
    usable[sorted(avoid)] = False
    left = np.bincount(sets, weights=job.present & usable[job.rank_node], minlength=len(missing))
    order = there[np.lexsort((-there, -left[there], -missing[there]))]

    def without(gone: int) -> np.ndarray:
        """Mask over ranks: those of the first `gone` sets."""
        chosen = np.zeros(len(missing), dtype=np.bool_)
        chosen[order[:gone]] = True
        mask: np.ndarray = chosen[sets]
        return mask

    def works(gone: int) -> bool:
        """Whether everybody is whole without the first `gone` sets; dropping more never takes room away."""
        dropped = without(gone)
        wanted = int(np.count_nonzero(~dropped[homeless]))
        return not wanted or wanted <= seats(room(fleet, job, avoid, np.flatnonzero(dropped & job.present)), per_rank)

    per_rank = job.spec.accelerators_per_rank
    most = len(there) + (-least // each)
    gone = 1 + bisect_left(range(1, most + 1), 1, key=works)
    if gone <= most:
        dropped = without(gone)
        kept = tuple(homeless[~dropped[homeless]].tolist())
        moves = replace_ranks(fleet, job, kept, avoid, np.flatnonzero(dropped & job.present)) if kept else None
        if not isinstance(moves, Blocked):
            return Shrink(tuple(_distinct(replica_of(job.spec)[dropped]).tolist()), kept, moves)
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
    absent = _distinct(sets[~job.present])
    each = int(np.count_nonzero(sets == 0))
    count = min(len(absent), seats(room(fleet, job, frozenset()), job.spec.accelerators_per_rank) // each)
    if not count:
        return None
    back = np.isin(sets, absent[:count])
    ranks = tuple(np.flatnonzero(back).tolist())
    moves = replace_ranks(fleet, job, ranks, frozenset())
    if isinstance(moves, Blocked):
        return None
    return Growth(tuple(_distinct(replica_of(job.spec)[back]).tolist()), ranks, moves)
