"""Stragglers: ranks that take longer than those which do the same work, and for what. Pure, in columns.

Ranks are compared inside of their group only: same pipeline stage, same tensor and context coordinates, and the same experts
where enough replicas hold them. So stages may be as uneven as they like. Waiting for others is nobody's own time. In one look a
rank is slow when it exceeds the median of its group by a factor and by far more than the others scatter; it is a straggler when
it is slow in most looks of a window, which uneven sequence lengths make of nobody: they are long for another rank each time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from controlplane.core.columns import BoolColumn, IntColumn
from controlplane.core.spec import Parallel

VENDOR, CODE = "phalanx", "STRAGGLER"
"""Of the fault that a rank with slow compute is worth; its table says what follows (shipped: shadow mode, nothing is done)."""

LOOKS = 32
"""Looks in the window; each holds at least one step of every rank that told anything."""
MAX_FLAGS = 64
"""Stragglers of one job that are told and remembered; more are not outliers."""
SAME_EXPERTS = 3
"""So many replicas of an expert are needed to compare their ranks with each other only."""
LEAST = 0.05
"""Excess below this share of the group's own time means nothing, whatever its factor is."""
SCATTER = 3 * 1.4826
"""Median absolute deviations that count as three standard deviations of normally distributed times."""


class Cause(StrEnum):
    """What a rank is slow for. ROUTING: its experts get more than their share, as the workload says."""

    COMPUTE = "compute"
    DATA = "data"
    COLLECTION = "garbage collection"
    CHECKPOINT = "checkpoint"
    ROUTING = "routing"


MEASURED = (Cause.COMPUTE, Cause.DATA, Cause.COLLECTION, Cause.CHECKPOINT)
"""Causes in the order of columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StragglerPolicy:
    """`factor`: times the median of its group is slow. `share`: of the looks in which a straggler is slow at least; it is one no
    more when it is slow in less than half of that. `looks`: before so many nobody is judged."""

    factor: float = 1.25
    share: float = 0.8
    looks: int = 16


@dataclass(frozen=True, slots=True)
class Slow:
    """A rank that is slow in many looks. `factor`: median over those looks, times its group's median (of its compute; other
    causes: its own time with and without the excess). `share`: of the looks in which it was slow."""

    rank: int
    cause: Cause
    factor: float
    share: float


@dataclass(frozen=True, slots=True)
class Standing:
    """What the window says: the slow, the slowest first. `known`: mask over ranks, those that can be judged."""

    slow: tuple[Slow, ...]
    known: BoolColumn


@dataclass(frozen=True, slots=True)
class Straggler:
    """A rank that is flagged. `devices`: positions on its node. `elsewhere`: the node where it was slow before it moved, so that
    its work is slow and not its place."""

    rank: int
    node: str
    devices: tuple[int, ...]
    cause: Cause
    factor: float
    share: float
    since_ns: int = 0
    elsewhere: str = ""

    @property
    def text(self) -> str:
        """For people."""
        place = f"{self.node}, accelerator{'s' * (len(self.devices) > 1)} {', '.join(map(str, self.devices))}"
        what = "compute" if self.cause is Cause.COMPUTE else f"own time, for {self.cause.value}"
        why = ": its experts get more than their share" if self.cause is Cause.ROUTING else ""
        also = f", as on {self.elsewhere} before: its work is slow, not its place" if self.elsewhere else ""
        return f"rank {self.rank} ({place}) takes {self.factor:.2f} times its peers' {what}{why}{also}"


@dataclass(frozen=True, slots=True)
class StragglerBook:
    """Flagged ranks by job uid, ascending by rank. Values are never changed in place."""

    flagged: dict[str, tuple[Straggler, ...]] = field(default_factory=dict)

    def of(self, job: str) -> tuple[Straggler, ...]:
        """Of a job."""
        return self.flagged.get(job, ())

    def changed(self, job: str, found: tuple[Straggler, ...], gone: tuple[int, ...] = ()) -> StragglerBook:
        """The book with these instead of what it says of the same ranks, and without those that are `gone`."""
        new = {one.rank: one for one in found}
        kept = [one for one in self.of(job) if one.rank not in new and one.rank not in gone]
        rows = tuple(sorted((*kept, *found), key=lambda one: one.rank))[:MAX_FLAGS]
        return self.without(job) if not rows else StragglerBook({**self.flagged, job: rows})

    def without(self, job: str) -> StragglerBook:
        """The book without a job."""
        if job not in self.flagged:
            return self
        return StragglerBook({uid: rows for uid, rows in self.flagged.items() if uid != job})


NO_STRAGGLERS = StragglerBook()


def groups_of(ranks: int, parallel: Parallel) -> IntColumn:
    """(ranks,) number of the group of ranks that do the same work."""
    rank = np.arange(ranks)
    inner, dp, ep = parallel.tp * parallel.cp, max(1, parallel.dp), max(1, parallel.ep)
    group = rank // (inner * dp) * inner + rank % inner
    if ep > 1 and dp // ep >= SAME_EXPERTS:
        group = group * ep + rank // inner % dp % ep
    result: IntColumn = group.astype(np.int32)
    return result


def compare(times: np.ndarray, group: IntColumn) -> np.ndarray:
    """How many times as long as its group each rank takes, in each of some looks.

    Args:
        times: (looks, ranks, 5) per step: compute, data, collection, checkpoint, and their sum; NaN: the rank told nothing.
        group: (ranks,) see `groups_of`.

    Returns:
        (looks, ranks, 4) float32: compute against the group's compute, of the others what they add to the group's own time; 0
        where that is too little or no more than the scatter, NaN of ranks that told nothing or have nobody to be compared with.
    """
    found = np.full((*times.shape[:2], len(MEASURED)), np.nan, dtype=np.float32)
    order = np.argsort(group, kind="stable")
    bounds = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.diff(bounds, append=len(group))
    for size in np.unique(sizes).tolist():
        if size < 2:
            continue
        members = order[bounds[sizes == size][:, None] + np.arange(size)]
        held = times[:, members]  # (looks, groups, members, 5)
        found[:, members] = _compared(held.reshape(-1, *held.shape[2:])).reshape(*held.shape[:3], -1)
    return found


def _compared(times: np.ndarray) -> np.ndarray:
    """See `compare`; (groups, members, ...)."""
    known = ~np.isnan(times[:, :, 0])
    middle = (np.maximum(known.sum(axis=1), 1) - 1) // 2
    usual = _at(np.sort(times, axis=1), middle)
    own, excess = usual[:, None, -1:], times[:, :, :-1] - usual[:, None, :-1]
    scatter = _at(np.sort(np.abs(excess), axis=1), middle)[:, None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 1 + excess / own
        ratio[:, :, 0] = times[:, :, 0] / usual[:, None, 0]
        counts = (excess > LEAST * own) & (excess > SCATTER * scatter)
    ratio = np.where(counts, np.minimum(ratio, 1e6), 0.0)
    alone = known.sum(axis=1) < 2
    ratio[~known | alone[:, None]] = np.nan
    return ratio


def _at(ordered: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """The lower median of each group: where one of two is slow, that of the other."""
    picked: np.ndarray = np.take_along_axis(ordered, middle[:, None, None], axis=1)[:, 0]
    return picked


def standing(looks: np.ndarray, load: np.ndarray, policy: StragglerPolicy) -> Standing | None:
    """What a window says; None while it holds too little.

    Args:
        looks: (looks, ranks, 4), see `compare`.
        load: (ranks,) of each rank's fullest expert, in means over all experts; 0: not told.
    """
    if len(looks) < policy.looks:
        return None
    told = np.count_nonzero(~np.isnan(looks[:, :, 0]), axis=0)
    slow = np.count_nonzero(looks >= policy.factor, axis=0)
    share = slow / np.maximum(told, 1)[:, None]
    judged = told >= policy.looks
    best = share.argmax(axis=1)
    ranks = np.flatnonzero(judged & (share.max(axis=1) >= policy.share / 2))
    found = []
    for rank in ranks.tolist():
        seen = looks[:, rank, best[rank]]
        factor = float(np.median(seen[seen >= policy.factor]))
        cause = MEASURED[best[rank]]
        if cause is Cause.COMPUTE and load[rank] >= policy.factor:
            cause = Cause.ROUTING
        found.append(Slow(rank, cause, round(factor, 3), round(float(share[rank, best[rank]]), 3)))
    found.sort(key=lambda one: (-one.share * one.factor, one.rank))
    return Standing(tuple(found[:MAX_FLAGS]), judged)
