"""How many devices are what, kept current by looking only at the nodes that changed.

Columns are never written in place, so that a tally can hold on to those it was counted from: what changed is taken out as
it was counted then, and counted anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter, is_

import numpy as np

from controlplane.core.columns import BoolColumn, ByteColumn, LongColumn
from controlplane.core.fleet import FREE, Fleet
from controlplane.core.jobs import Job
from controlplane.core.vocabulary import Bucket, JobState, NodeLiveness, NodeService

OUTSIDE = (Bucket.UNKNOWN, Bucket.QUARANTINED, Bucket.SPARE, Bucket.IDLE)
"""Buckets of devices that no job holds; the first that applies."""
COLUMNS = ("liveness", "service", "cordoned", "reserved", "acc_state", "acc_owner")
"""Columns of the fleet that decide it."""
_COLUMNS = attrgetter(*COLUMNS)
RECOUNT_SHARE = 4
"""When more than a quarter of the nodes have changed, all are counted: it is no dearer."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Devices outside of jobs by `OUTSIDE`, and by job serial; `serving`: nodes that are in service and not dead; `fleet`: the
    columns that were counted."""

    outside: LongColumn
    owned: LongColumn
    serving: int
    fleet: Fleet

    @property
    def devices(self) -> int:
        """All of them."""
        return int(self.outside.sum() + self.owned.sum())

    def of(self, job: Job) -> int:
        """Devices that a job holds."""
        return int(self.owned[job.serial]) if job.serial < len(self.owned) else 0

    def idle(self, wanted: int) -> dict[Bucket, int]:
        """Devices outside of jobs by bucket. `wanted`: devices that queued jobs wait for; so many idle ones are QUEUED."""
        counts = dict(zip(OUTSIDE, self.outside.tolist(), strict=True))
        queued = min(wanted, counts[Bucket.IDLE])
        counts[Bucket.IDLE] -= queued
        counts[Bucket.QUEUED] = queued
        return counts


def count(fleet: Fleet) -> Tally:
    """A tally of the whole fleet."""
    return Tally(*_count(fleet, np.arange(fleet.size)), fleet.clone())


def recount(tally: Tally, fleet: Fleet) -> Tally:
    """The tally of the fleet as it is now. Nobody has to say which nodes have changed: a column that is still the same one
    has not."""
    rows = _changed(tally.fleet, fleet)
    if rows is None:
        return tally
    if len(rows) * RECOUNT_SHARE > fleet.size:
        return count(fleet)
    outside_before, owned_before, serving_before = _count(tally.fleet, rows[rows < tally.fleet.size])
    outside, owned, serving = _count(fleet, rows)
    length = max(len(tally.owned), len(owned_before), len(owned))
    by_job = _padded(tally.owned, length) - _padded(owned_before, length) + _padded(owned, length)
    serving += tally.serving - serving_before
    return Tally(tally.outside - outside_before + outside, by_job, serving, fleet.clone())


def _changed(old: Fleet, new: Fleet) -> LongColumn | None:
    """Nodes whose devices may be counted differently, new ones included; None: no column is another one."""
    known = old.size
    if known == new.size and all(map(is_, _COLUMNS(old), _COLUMNS(new))):
        return None
    mask = np.zeros(new.size, dtype=np.bool_)
    mask[known:] = True
    pairs = [pair for pair in zip(_COLUMNS(old), _COLUMNS(new), strict=True) if pair[0] is not pair[1]]
    for before, after in pairs:
        if before.shape[1:] != after.shape[1:]:
            return np.arange(new.size)
        differs = before != after[:known]
        mask[:known] |= differs.any(axis=1) if differs.ndim > 1 else differs
    return np.flatnonzero(mask)


def wanted_by(jobs: Iterable[Job]) -> int:
    """Devices that queued jobs wait for."""
    waiting = (job for job in jobs if job.state is JobState.QUEUED and job.ending is None)
    return sum(job.spec.ranks * job.spec.accelerators_per_rank for job in waiting)


def _count(fleet: Fleet, rows: LongColumn) -> tuple[LongColumn, LongColumn, int]:
    state, owner = fleet.acc_state[rows], fleet.acc_owner[rows]
    present = state != 0
    free = present & (owner == FREE)
    liveness = fleet.liveness[rows]
    blind = ((liveness == NodeLiveness.DEAD) | (liveness == NodeLiveness.UNKNOWN))[:, None]
    service = fleet.service[rows]
    away = fleet.cordoned[rows] | _away(service)
    out = ~blind & (away[:, None] | ~fleet.usable(state))
    spare = ~blind & ~out & (fleet.reserved[rows] != FREE)[:, None]
    parts = (free & blind, free & out, free & spare)
    numbers = [int(np.count_nonzero(part)) for part in parts]
    outside = np.array([*numbers, int(np.count_nonzero(free)) - sum(numbers)], dtype=np.int64)
    serving = (liveness != NodeLiveness.DEAD) & (service == NodeService.IN_SERVICE)
    owned = np.bincount(owner[present & (owner != FREE)]).astype(np.int64)
    return outside, owned, int(np.count_nonzero(serving))


def _away(service: ByteColumn) -> BoolColumn:
    mask: BoolColumn = (
        (service == NodeService.VALIDATING)
        | (service == NodeService.QUARANTINED)
        | (service == NodeService.OUT_OF_SERVICE)
    )
    return mask


def _padded(column: LongColumn, length: int) -> LongColumn:
    if len(column) == length:
        return column
    return np.append(column, np.zeros(length - len(column), dtype=np.int64))
