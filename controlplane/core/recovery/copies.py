"""Where each node's memory copies go: a place that does not share their fate (S8). Pure, in columns.

A copy is lost with its original when both lie in one failure domain (rack, switch, power feed, super-pod), or in one unit that
the recovery ladder takes out together: a data-parallel replica, and the replicas that share one set of experts. Copies
therefore go to a node of another unit, at another pipeline stage where there is one, outside every failure domain. Where no
such node exists, the best remaining one is taken and shown as weaker.

The partner is chosen by the part that a node plays in the job (the order of its first rank), not by its name: after a swap the
new node takes over the old one's partners, and only what the swap brought into one failure domain is placed anew. The plan is
soft state: it follows from the rank table alone and is worked out when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag

import numpy as np

from controlplane.core.columns import BoolColumn, ByteColumn, IntColumn, LongColumn
from controlplane.core.fleet import DOMAIN_KINDS, NO_DOMAIN
from controlplane.core.spec import Parallel

NOBODY = -1
"""No node holds a copy."""
MAX_HELD = 2
"""Nodes whose copies one node holds: memory is reserved for that many."""
TRIES = 64
"""Other partners that are looked at for a node whose first choice shares its fate."""


class Shared(IntFlag):
    """What original and copy share; 0: nothing, which is full protection. Worse ones are larger."""

    NOTHING = 0
    SUPERPOD = 1
    POWER = 2
    SWITCH = 4
    RACK = 8
    UNIT = 16
    NODE = 32

    @property
    def words(self) -> str:
        """For people: "full", or what makes it weaker."""
        parts = [flag.name.lower() for flag in Shared if flag in self and flag.name]
        return "weaker: same " + ", ".join(parts) if parts else "full"


KINDS: Mapping[str, Shared] = {
    "rack": Shared.RACK,
    "switch": Shared.SWITCH,
    "power": Shared.POWER,
    "superpod": Shared.SUPERPOD,
}
"""Kind of failure domain -> what is shared by nodes of the same one; nodes without one share nothing by it."""


@dataclass(frozen=True, slots=True)
class Sites:
    """The nodes of a job in the order of their first rank, as columns.

    `node`: node numbers. `unit`: what the ladder takes out together (NOBODY: ranks of several units, which is all of them).
    `stage`: pipeline stage of the first rank. `domains`: for each kind the number of the domain, NO_DOMAIN without.
    """

    node: IntColumn
    unit: IntColumn
    stage: IntColumn
    domains: tuple[tuple[Shared, IntColumn], ...]


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """Who holds the copies of whom: `holder[i]` (node number) those of `node[i]`, sharing `shared[i]` with it."""

    node: IntColumn
    holder: IntColumn
    shared: ByteColumn

    @property
    def weaker(self) -> int:
        """Nodes whose copies share something with them."""
        return int(np.count_nonzero(self.shared))


def units_of(ranks: int, parallel: Parallel) -> tuple[IntColumn, IntColumn]:
    """(unit, pipeline stage) of every rank. Ranks are numbered tp innermost, then cp, dp, pp (as Megatron-LM does)."""
    inner = parallel.tp * parallel.cp
    dp = max(1, parallel.dp)
    rank = np.arange(ranks)
    return (
        (rank // inner % dp // max(1, parallel.ep)).astype(np.int32),
        (rank // (inner * dp)).astype(np.int32),
    )


def same_state(ranks: int, parallel: Parallel) -> IntColumn:
    """Number of the state of every rank where optimizers are not sharded: ranks of equal number, in replicas that hold the
    same experts, hold the same."""
    inner = parallel.tp * parallel.cp
    dp = max(1, parallel.dp)
    rank = np.arange(ranks)
    expert = rank // inner % dp % max(1, parallel.ep)
    return ((rank // (inner * dp) * max(1, parallel.ep) + expert) * inner + rank % inner).astype(np.int32)


def replicas_of(ranks: int, parallel: Parallel) -> IntColumn:
    """Number of the group of data-parallel replicas of every rank: those that differ from it in that dimension only."""
    inner = parallel.tp * parallel.cp
    rank = np.arange(ranks)
    return (rank // (inner * max(1, parallel.dp)) * inner + rank % inner).astype(np.int32)


def sites_of(rank_node: IntColumn, parallel: Parallel, domains: IntColumn) -> Sites:
    """The nodes of a rank table. `domains`: (nodes of the site, kinds), as `Fleet.domains`."""
    ranks = np.flatnonzero(rank_node >= 0)
    unit, stage = units_of(len(rank_node), parallel)
    by_node = ranks[np.argsort(rank_node[ranks], kind="stable")]
    starts = np.flatnonzero(np.diff(rank_node[by_node], prepend=-1))
    node, first = rank_node[by_node[starts]], by_node[starts]
    low, high = (at.reduceat(unit[by_node], starts) if len(starts) else unit[:0] for at in (np.minimum, np.maximum))
    order = np.argsort(first, kind="stable")
    node = node[order].astype(np.int32)
    own = np.where(low == high, low, NOBODY)[order].astype(np.int32)
    columns = tuple((KINDS[kind], domains[node, at]) for at, kind in enumerate(DOMAIN_KINDS))
    return Sites(node, own, stage[first[order]], columns)


def shared_fate(sites: Sites, original: LongColumn, holder: LongColumn) -> ByteColumn:
    """What pairs of positions in `sites` share, as `Shared` bits."""
    unit = sites.unit
    same_unit = (unit[original] == unit[holder]) | (unit[original] == NOBODY) | (unit[holder] == NOBODY)
    bits = np.where(same_unit, int(Shared.UNIT), 0)
    bits = bits + np.where(original == holder, int(Shared.NODE), 0)
    for flag, domain in sites.domains:
        bits = bits + np.where((domain[original] == domain[holder]) & (domain[original] != NO_DOMAIN), int(flag), 0)
    result: ByteColumn = bits.astype(np.uint8)
    return result


def place_copies(sites: Sites) -> CopyPlan:
    """A holder for every node; no node holds more than `MAX_HELD` others' copies. One node alone: nobody."""
    count = len(sites.node)
    if count < 2:
        return CopyPlan(sites.node, np.full(count, NOBODY, dtype=np.int32), np.full(count, Shared.NODE, dtype=np.uint8))
    here = np.arange(count)
    shift = _shift(sites)
    partner = (here + shift) % count
    shared = shared_fate(sites, here, partner)
    held = np.bincount(partner, minlength=count)
    for step in range(1, min(TRIES, count - 1) + 1):
        weak = np.flatnonzero(shared)
        if not len(weak):
            break
        other = (weak + shift + step * _stride(count)) % count
        found = shared_fate(sites, weak, other)
        better = (found < shared[weak]) & (held[other] < MAX_HELD) & (other != weak)
        taken, at = np.unique(other[better], return_index=True)  # of two that want one holder, one has it this time
        chosen = weak[better][at]
        np.subtract.at(held, partner[chosen], 1)
        held[taken] += 1
        partner[chosen] = taken
        shared[chosen] = found[better][at]
    return CopyPlan(sites.node, sites.node[partner], shared)


def _shift(sites: Sites) -> int:
    """How far along the order of parts the partner lies: the first distance that leaves fewest nodes in their own unit and
    pipeline stage. It depends on the job's layout alone, so that a swap moves nobody else's copies."""
    count = len(sites.node)
    here = np.arange(count)
    best, fewest = 1, 3 * count
    for part in (2, 3, 4, 5, 8, 16, 32, count):
        for distance in {max(1, count // part), max(1, count // part) + 1}:
            partner = (here + distance) % count
            unit = (sites.unit[partner] == sites.unit) | (sites.unit == NOBODY)
            cost = 2 * int(np.count_nonzero(unit)) + int(np.count_nonzero(sites.stage[partner] == sites.stage))
            if distance < count and cost < fewest:
                best, fewest = distance, cost
    return best


def _stride(count: int) -> int:
    """Distance between two tries: far enough to leave a rack of neighbours, and with no common factor with `count`, so that
    all are reached."""
    stride = max(1, count // 7)
    while np.gcd(stride, count) != 1:
        stride += 1
    return stride


def violations(sites: Sites, plan: CopyPlan) -> list[str]:
    """S8: copies that share their original's fate and are not shown as weaker, and holders asked for more than they keep."""
    found = []
    at = {int(node): position for position, node in enumerate(sites.node.tolist())}
    known = np.array([at.get(int(node), NOBODY) for node in plan.holder.tolist()], dtype=np.int64)
    real = plan.holder != NOBODY
    if not np.array_equal(plan.node, sites.node):
        return ["S8: the copies were placed for another rank table"]
    if (known[real] == NOBODY).any():
        return ["S8: copies are held by nodes outside of the job"]
    here = np.flatnonzero(real)
    hidden = shared_fate(sites, here, known[here]) & ~plan.shared[here]
    for position in here[hidden != 0].tolist():
        what = Shared(int(shared_fate(sites, np.array([position]), known[[position]])[0])).words
        found.append(f"S8: copies of node {sites.node[position]} on node {plan.holder[position]} are {what}, not shown")
    most = int(np.bincount(known[real], minlength=1).max(initial=0))
    if most > MAX_HELD:
        found.append(f"S8: one node holds copies of {most} others, at most {MAX_HELD} fit")
    return found


def protected(plan: CopyPlan) -> BoolColumn:
    """Mask over the plan's nodes: copies with full protection."""
    mask: BoolColumn = plan.shared == 0
    return mask
