"""The accelerator-seconds ledger: integer nanoseconds, every device of the site in exactly one bucket at any time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from controlplane.core.fleet import FREE, Fleet
from controlplane.core.jobs import Job
from controlplane.core.vocabulary import Bucket, NodeLiveness


@dataclass(slots=True)
class Ledger:
    """Totals in accelerator-nanoseconds. `device_ns` is wall time x devices: what the buckets must sum to (S12)."""

    begun_ns: int = 0
    last_ns: int = 0
    device_ns: int = 0
    site: dict[str, int] = field(default_factory=dict)

    def clone(self) -> Ledger:
        """An independent copy."""
        return Ledger(self.begun_ns, self.last_ns, self.device_ns, dict(self.site))

    def add(self, bucket: Bucket, amount_ns: int) -> None:
        """Add to a site bucket."""
        self.site[bucket] = self.site.get(bucket, 0) + amount_ns


def idle_counts(fleet: Fleet) -> dict[Bucket, int]:
    """How many devices outside jobs are in which bucket."""
    present = fleet.acc_state != 0
    free = present & (fleet.acc_owner == FREE)
    blind = ((fleet.liveness == NodeLiveness.DEAD) | (fleet.liveness == NodeLiveness.UNKNOWN))[:, None]
    out = fleet.cordoned[:, None] | ~fleet.usable_accelerators()
    spare = (fleet.reserved != FREE)[:, None]
    unknown = free & blind
    quarantined = free & ~blind & out
    held = free & ~blind & ~out & spare
    counts = {
        Bucket.UNKNOWN: int(np.count_nonzero(unknown)),
        Bucket.QUARANTINED: int(np.count_nonzero(quarantined)),
        Bucket.SPARE: int(np.count_nonzero(held)),
    }
    counts[Bucket.IDLE] = int(np.count_nonzero(free)) - sum(counts.values())
    return counts


def owned_counts(fleet: Fleet, jobs: Iterable[Job]) -> dict[str, int]:
    """Devices held by each job, by uid."""
    owned = np.bincount(np.where(fleet.acc_state != 0, fleet.acc_owner - FREE, 0).ravel())[-FREE:]
    return {job.uid: int(owned[job.serial]) if job.serial < len(owned) else 0 for job in jobs}


def move(ledger: Ledger, buckets: dict[str, int], source: Bucket, target: Bucket, amount_ns: int) -> dict[str, int]:
    """Move what turned out to belong elsewhere; never more than the source holds. Returns the job's new buckets."""
    amount = max(0, min(amount_ns, buckets.get(source, 0)))
    if not amount:
        return buckets
    ledger.add(source, -amount)
    ledger.add(target, amount)
    return {**buckets, source: buckets[source] - amount, target: buckets.get(target, 0) + amount}


def ettr(buckets: Mapping[str, int]) -> float:
    """Productive share of a job's device time; 0 when it has had none."""
    total = sum(buckets.values())
    return buckets.get(Bucket.PRODUCTIVE, 0) / total if total else 0.0
