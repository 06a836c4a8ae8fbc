"""The accelerator-seconds ledger: integer nanoseconds, every device of the site in exactly one bucket at any time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controlplane.core.jobs import Job
from controlplane.core.vocabulary import Bucket


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


def move(ledger: Ledger, buckets: dict[str, int], source: Bucket, target: Bucket, amount_ns: int) -> dict[str, int]:
    """Move what turned out to belong elsewhere; never more than the source holds. Returns the job's new buckets."""
    amount = max(0, min(amount_ns, buckets.get(source, 0)))
    if not amount or source is target:
        return buckets
    ledger.add(source, -amount)
    ledger.add(target, amount)
    return {**buckets, source: buckets[source] - amount, target: buckets.get(target, 0) + amount}


def book(ledger: Ledger, job: Job, devices: int, now_ns: int) -> int:
    """Book a job's devices from the ledger's last booking until now to what the job was doing. Returns device-time."""
    amount = devices * (now_ns - ledger.last_ns)
    bucket = job.bucket()
    ledger.add(bucket, amount)
    job.ledger_ns = {**job.ledger_ns, bucket: job.ledger_ns.get(bucket, 0) + amount}
    job.hour = job.hour.booked(ledger.last_ns, now_ns, devices, productive=bucket is Bucket.PRODUCTIVE)
    return amount


def rebook(ledger: Ledger, job: Job, source: Bucket, target: Bucket, amount_ns: int) -> int:
    """Move a job's device-time that turned out to belong elsewhere, in its totals and in its last hour. Returns how much."""
    before = job.ledger_ns.get(source, 0)
    job.ledger_ns = move(ledger, job.ledger_ns, source, target, amount_ns)
    moved = before - job.ledger_ns.get(source, 0)
    if moved and source is Bucket.PRODUCTIVE:
        job.hour = job.hour.taken(moved)
    elif moved and target is Bucket.PRODUCTIVE:
        job.hour = job.hour.given(moved)
    return moved


def ettr(buckets: Mapping[str, int]) -> float:
    """Productive share of a job's device time; 0 when it has had none."""
    total = sum(buckets.values())
    return buckets.get(Bucket.PRODUCTIVE, 0) / total if total else 0.0
