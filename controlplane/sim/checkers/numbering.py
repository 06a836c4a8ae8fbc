"""S4: numbers that mean something only grow, and none is used twice."""

from __future__ import annotations

from collections.abc import Iterator

from controlplane.core import records as r
from controlplane.sim.checkers.base import Checker, Durable, Finding
from controlplane.sim.checkers.book import Book


class NumbersGrow(Checker):
    """Epochs, generations, and the numbers of jobs and processes."""

    invariant = "S4"
    watches = (r.ControllerStarted, r.GenerationStarted, r.HostsRequested, r.JobSubmitted)

    def record(self, seen: Durable, book: Book) -> Iterator[Finding]:
        """Compare a new number with what the book knows."""
        match seen.record:
            case r.ControllerStarted(epoch=epoch) if epoch <= book.epoch:
                yield Finding("controller", f"epoch {epoch} begins after epoch {book.epoch}")
            case r.GenerationStarted(job=uid, generation=generation) if generation <= book.jobs[uid].generation:
                before = book.jobs[uid].generation
                yield Finding(uid, f"generation {generation} of {uid} starts after generation {before}")
            case r.HostsRequested(job=uid, serials=serials) if min(serials) < book.jobs[uid].next_host:
                yield Finding(uid, f"process {min(serials)} of {uid} is asked for a second time")
            case r.JobSubmitted(uid=uid) if uid in book.jobs:
                yield Finding(uid, f"a second job is numbered {uid}")
            case _:
                return
