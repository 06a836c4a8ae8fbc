"""A journal whose appends are measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from controlplane.core.units import to_s
from controlplane.engine.ports import Content, Extent, Journal, JournalEntry, JournalUnavailable, Snapshot
from controlplane.observability.metrics import Metrics

SIZE_EVERY_S = 30.0
"""A scrape must not cost the database a count of its rows each time."""


class TimedJournal:
    """A journal whose appends are measured; everything else is passed on. `told`: is told how long each append took, ns."""

    def __init__(self, journal: Journal, metrics: Metrics) -> None:
        self._journal = journal
        self._metrics = metrics
        self._size: int | None = None
        self._size_due_s = 0.0
        self.told: Callable[[int], None] | None = None

    def size_bytes(self) -> int | None:
        """What the journal takes on disk, measured at most every `SIZE_EVERY_S`; None while it cannot be read."""
        now_s = time.monotonic()
        if now_s >= self._size_due_s:
            self._size_due_s = now_s + SIZE_EVERY_S
            try:
                self._size = self._journal.extent().bytes
            except JournalUnavailable:
                self._size = None
        return self._size

    def acquire(self, holder: str) -> int:
        """See `engine.ports.Journal`."""
        return self._journal.acquire(holder)

    def append(self, entries: Sequence[JournalEntry]) -> None:
        """See `engine.ports.Journal`."""
        began_ns = time.monotonic_ns()
        try:
            self._journal.append(entries)
        except JournalUnavailable:
            self._metrics.append_failures.inc()
            raise
        finally:
            took_ns = time.monotonic_ns() - began_ns
            self._metrics.append_seconds.observe(to_s(took_ns))
            if self.told is not None:
                self.told(took_ns)
        self._metrics.appended.inc(len(entries))

    def stored(self, entries: Sequence[JournalEntry]) -> bool:
        """See `engine.ports.Journal`."""
        return self._journal.stored(entries)

    def probe(self, epoch: int, entries: Sequence[JournalEntry] = ()) -> None:
        """See `engine.ports.Journal`."""
        self._journal.probe(epoch, entries)

    def read(self, after: int, limit: int = 1_000) -> list[JournalEntry]:
        """See `engine.ports.Journal`."""
        return self._journal.read(after, limit)

    def newest(
        self, limit: int, *, after: int = 0, job: str = "", node: str = "", types: Sequence[str] = ()
    ) -> list[JournalEntry]:
        """See `engine.ports.Journal`."""
        return self._journal.newest(limit, after=after, job=job, node=node, types=types)

    def oldest(self, limit: int, *, after: int = 0, types: Sequence[str] = ()) -> list[JournalEntry]:
        """See `engine.ports.Journal`."""
        return self._journal.oldest(limit, after=after, types=types)

    def bounds(self) -> tuple[int, int]:
        """See `engine.ports.Journal`."""
        return self._journal.bounds()

    def latest_snapshot(self) -> Snapshot | None:
        """See `engine.ports.Journal`."""
        return self._journal.latest_snapshot()

    def store_snapshot(self, snapshot: Snapshot) -> None:
        """See `engine.ports.Journal`."""
        self._journal.store_snapshot(snapshot)

    def compact(self, before_revision: int) -> int:
        """See `engine.ports.Journal`."""
        return self._journal.compact(before_revision)

    def forget(self, before_ns: int) -> int:
        """See `engine.ports.Journal`."""
        return self._journal.forget(before_ns)

    def extent(self) -> Extent:
        """See `engine.ports.Journal`."""
        return self._journal.extent()

    def content(self) -> AbstractContextManager[Content]:
        """See `engine.ports.Journal`."""
        return self._journal.content()

    def close(self) -> None:
        """See `engine.ports.Journal`."""
        self._journal.close()
