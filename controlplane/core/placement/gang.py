"""Gang placement on the topology: all ranks at once or a stated blocker. Vectorised over nodes; pure.

Heuristic: the smallest rack that holds the whole gang, else the fullest racks first; inside a rack the emptiest nodes
first, so that a gang touches few failure domains (as topology-aware schedulers pack, for example Kueue's TAS).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from controlplane.core.fleet import FREE, LENT, Fleet
from controlplane.core.jobs import Job
from controlplane.core.placement.shortage import excluded, shortage
from controlplane.core.spec import JobSpec
from controlplane.core.state import free_devices
from controlplane.core.vocabulary import NodeLiveness, NodeService


@dataclass(frozen=True, slots=True)
class Placement:
    """Node number and device positions of every rank, rank order; and the nodes held back as warm spares."""

    nodes: tuple[int, ...]
    accelerators: tuple[tuple[int, ...], ...]
    spares: tuple[int, ...] = ()

    @property
    def flat(self) -> tuple[int, ...]:
        """Device positions of all ranks in one row."""
        return tuple(position for row in self.accelerators for position in row)


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why it does not fit now."""

    reason: str


def _order(fleet: Fleet, capacity: np.ndarray, ranks: int) -> np.ndarray:
    """Node numbers in the order of filling."""
    racks = len(fleet.racks)
    by_rack = np.bincount(fleet.rack, weights=capacity, minlength=racks)
    most = by_rack.max(initial=0)
    key = np.where(by_rack >= ranks, by_rack - most - 1, most - by_rack)
    return np.lexsort((np.arange(fleet.size), -capacity, _on_trial(fleet), fleet.rack, key[fleet.rack]))


def _on_trial(fleet: Fleet) -> np.ndarray:
    """Mask over nodes that work on trial: they take work after the others of their rack."""
    mask: np.ndarray = fleet.service == NodeService.PROBATION
    return mask


def _take(free: np.ndarray, order: np.ndarray, capacity: np.ndarray, ranks: int, per_rank: int) -> Placement:
    """The first `ranks` places in this order of nodes; on each node its lowest free positions."""
    counts = capacity[order]
    before = np.cumsum(counts) - counts
    take = np.clip(ranks - before, 0, counts)
    used, take = order[take > 0], take[take > 0]
    lowest = np.cumsum(free[used], axis=1) <= (take * per_rank)[:, None]
    positions = np.nonzero(free[used] & lowest)[1].reshape(ranks, per_rank)
    return Placement(tuple(np.repeat(used, take).tolist()), tuple(map(tuple, positions.tolist())))


def place(fleet: Fleet, spec: JobSpec) -> Placement | Blocked:
    """Places for a whole new job with its warm spares; fewer spares than asked for when there is no room for them."""
    per_rank = spec.accelerators_per_rank
    free = free_devices(fleet) & (fleet.reserved == FREE)[:, None]
    capacity = free.sum(axis=1) // per_rank
    if int(capacity.sum()) < spec.ranks:
        return Blocked(shortage(fleet, free, spec))
    order = _order(fleet, capacity, spec.ranks)
    placed = _take(free, order, capacity, spec.ranks, per_rank)
    used = set(placed.nodes)
    most = int(np.bincount(placed.nodes).max())
    held_back = max(0, spec.spares.warm_nodes) + spec.spares.cold_nodes
    spares = [n for n in order.tolist() if n not in used and capacity[n] >= most][:held_back]
    return Placement(placed.nodes, placed.accelerators, tuple(spares))


def _count(accelerators: int) -> str:
    return f"{accelerators} accelerators are" if accelerators > 1 else "1 accelerator is"


def room(fleet: Fleet, job: Job, avoid: frozenset[int], freed: np.ndarray | None = None) -> np.ndarray:
    """(nodes, width) mask of devices that ranks of a placed job could move to. `avoid`: node numbers not to use; `freed`: ranks
    of the job that give their own places up."""
    ours = (fleet.reserved == FREE) | (fleet.reserved == job.serial) | (fleet.reserved == LENT)
    free: np.ndarray = free_devices(fleet) & ours[:, None]
    if freed is not None and len(freed):
        at = job.rank_node[freed][:, None], job.rank_acc[freed]
        free[at] = fleet.usable_accelerators()[at] & fleet.schedulable()[job.rank_node[freed]][:, None]
    free[sorted(avoid)] = False
    return free


def seats(free: np.ndarray, per_rank: int) -> int:
    """How many ranks fit on free devices."""
    return int((np.count_nonzero(free, axis=1) // per_rank).sum())


def replace_ranks(
    fleet: Fleet,
    job: Job,
    ranks: tuple[int, ...],
    avoid: frozenset[int],
    freed: np.ndarray | None = None,
) -> Placement | Blocked:
    """New places for lost ranks: the job's own warm spares first, then any free device, then spares that others lend it.
    `avoid`, `freed`: see `room`."""
    per_rank = job.spec.accelerators_per_rank
    lent = fleet.reserved == LENT
    free = room(fleet, job, avoid, freed)
    capacity = free.sum(axis=1) // per_rank
    if int(capacity.sum()) < len(ranks):
        return Blocked(
            f"no place for {len(ranks)} rank{'s' * (len(ranks) > 1)}: {_count(len(ranks) * per_rank)} needed, "
            + "; ".join([f"{int(free.sum())} usable ones are free", *excluded(fleet)])
        )
    others = len(job.spare_nodes)
    turn = np.full(fleet.size, others)  # its own spares come first, in their order: the warm ones before the cold ones
    turn[list(job.spare_nodes)] = np.arange(others)
    whole = capacity >= len(ranks)
    order = np.lexsort((np.arange(fleet.size), -capacity, _on_trial(fleet), turn, ~whole, turn == others, lent))
    return _take(free, order, capacity, len(ranks), per_rank)


def _leaving(fleet: Fleet, job: Job) -> int:
    """Nodes that a job has to leave: for each of them a spare is held until its ranks have moved."""
    out = fleet.emptying()
    held = job.per_node()
    return int(np.count_nonzero(out[: len(held)] & (held > 0)))


def refill_spares(fleet: Fleet, job: Job, first: Iterable[Job] = ()) -> tuple[int, ...]:
    """The warm spare nodes that the job should hold now: kept ones that are still good, topped up from free nodes. `first`:
    jobs that are short of spares and whose turn comes before; what they could take is left to them."""
    wanted = job.wanted_spares + _leaving(fleet, job)
    per_rank = job.spec.accelerators_per_rank
    unowned = fleet.usable_accelerators() & (fleet.acc_owner == FREE)
    good = (fleet.liveness != NodeLiveness.DEAD) & fleet.serving() & ~fleet.cordoned
    kept = [node for node in job.spare_nodes if good[node] and np.count_nonzero(unowned[node]) >= per_rank]
    if len(kept) >= wanted:
        return tuple(kept[:wanted])
    ranks = job.per_node()
    capacity = np.count_nonzero(unowned, axis=1) // per_rank
    fit = (capacity >= ranks.max(initial=0)) & (fleet.reserved == FREE) & fleet.schedulable()
    fit[: len(ranks)] &= ranks == 0
    fit[kept] = False
    for other in first:
        theirs = other.per_node()
        could = np.flatnonzero(fit & (capacity >= theirs.max(initial=0)))
        could = could[(could >= len(theirs)) | (theirs[np.minimum(could, len(theirs) - 1)] == 0)]
        fit[could[: other.wanted_spares - len(other.spare_nodes)]] = False
    return tuple((kept + np.flatnonzero(fit).tolist())[:wanted])
