"""S12: every accelerator-nanosecond of the site is in exactly one bucket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from controlplane.core.state import State
from controlplane.sim.checkers.base import Checker, Finding
from controlplane.sim.checkers.book import Book

if TYPE_CHECKING:
    from controlplane.sim.world.site import World


class EverySecondOnce(Checker):
    """The book counts devices and passes time by itself; the state's buckets must sum to the same, to the nanosecond."""

    invariant = "S12"

    def turn(self, after: State, book: Book, world: World) -> Iterator[Finding]:
        """The site's buckets, wall time x devices, and each job's buckets."""
        site = sum(after.ledger.site.values())
        for what, amount in (("buckets sum to", site), ("wall time x devices is", after.ledger.device_ns)):
            if amount != book.device_ns:
                yield Finding("site", f"{what} {amount} ns; the devices existed for {book.device_ns} ns")
        negative = [bucket for bucket, amount in after.ledger.site.items() if amount < 0]
        if negative:
            yield Finding("site", f"buckets {sorted(negative)} are negative")
        for line in book.active():
            job = after.jobs.get(line.uid)
            held = sum(job.ledger_ns.values()) if job else 0
            if job and held != line.held_ns:
                text = f"buckets of {line.uid} sum to {held} ns; it held its devices for {line.held_ns} ns"
                yield Finding(line.uid, text)
