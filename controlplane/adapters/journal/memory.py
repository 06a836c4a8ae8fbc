"""The journal in memory, for unit tests and the simulation: the real one's rules, plus switches that make it fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice

from controlplane.adapters.journal import rules
from controlplane.core.retention import BOOKKEEPING
from controlplane.engine.ports import (
    Compacted,
    Content,
    EpochLost,
    Extent,
    JournalEntry,
    JournalUnavailable,
    JournalUncertain,
    Lease,
    Snapshot,
)


@dataclass(slots=True)
class _Storage:
    """What survives the end of a process."""

    entries: list[JournalEntry] = field(default_factory=list)
    archive: list[JournalEntry] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)  # newest first
    epoch: int = 0
    holder: str = ""
    address: str = ""
    place: str = ""
    expires_ms: int = 0
    now_ms: int = 1_000_000
    full: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def newest(self) -> int:
        return self.entries[-1].revision if self.entries else 0


class MemoryJournal:
    """`engine.ports.Journal` in memory; lost with the process, shared between all that come from `open_again`.

    Deterministic and without I/O. Any thread may call.
    """

    def __init__(self) -> None:
        self._storage = _Storage()
        self._failures: list[str] = []
        self._cut: bool | None = None
        self._closed = False

    # Faults

    def open_again(self) -> MemoryJournal:
        """Another open journal on the same storage, without pending faults: a restart, a standby, a reader."""
        other = MemoryJournal()
        other._storage = self._storage
        return other

    def fail_next(self, times: int = 1, message: str = "failed on request") -> None:
        """Let the next `times` writes through this object raise `JournalUnavailable`; nothing of them is kept."""
        self._failures.extend([message] * times)

    def set_full(self, full: bool) -> None:
        """Let every write to this storage raise `JournalUnavailable` until it is set to False."""
        self._storage.full = full

    def cut_next_commit(self, *, kept: bool) -> None:
        """Let the next append raise `JournalUncertain`; `kept`: it is durable all the same."""
        self._cut = kept

    def lose_leadership(self, holder: str = "another controller") -> int:
        """Raise the epoch as another process would, so that the present leader's next append raises `EpochLost`."""
        return self.open_again().acquire(holder)

    # The port

    def acquire(self, holder: str) -> int:
        """Take leadership: raise the epoch by one and return it.

        Raises:
            JournalUnavailable: closed, full, or on request; the epoch did not change.
        """
        with self._storage.lock:
            self._check_writable()
            self._check_space()
            self._storage.epoch += 1
            self._storage.holder = holder
            self._storage.expires_ms = 0
            return self._storage.epoch

    def append(self, entries: Sequence[JournalEntry]) -> None:
        """Keep all entries, or none. No entries: nothing happens.

        Raises:
            JournalUnavailable: closed, full, or on request; nothing was kept.
            JournalUncertain: on request.
            EpochLost: another controller has acquired the journal.
            ValueError: a bug of the caller: a gap or a clash of revisions, or an epoch that was never acquired.
        """
        if not entries:
            return
        epoch = rules.check_batch(entries)
        with self._storage.lock:
            self._check_writable()
            rules.check_epoch(self._storage.epoch, epoch)
            rules.check_continues(self._storage.newest(), entries[0].revision)
            self._check_space()
            cut, self._cut = self._cut, None
            if cut is not False:
                self._storage.entries.extend(entries)
            if cut is not None:
                raise JournalUncertain("the connection ended during a commit, on request")

    def stored(self, entries: Sequence[JournalEntry]) -> bool:
        """Whether an append of uncertain outcome was kept.

        Raises:
            JournalUnavailable: closed, or on request.
            EpochLost: another controller has acquired the journal.
        """
        epoch = rules.check_batch(entries)
        with self._storage.lock:
            self._check_writable()
            rules.check_epoch(self._storage.epoch, epoch)
            return self._storage.newest() >= entries[-1].revision

    def probe(self, epoch: int, entries: Sequence[JournalEntry] = ()) -> None:
        """Whether an append would work now, however large.

        Raises:
            JournalUnavailable: closed, full, or on request.
            EpochLost: another controller has acquired the journal.
        """
        with self._storage.lock:
            self._check_writable()
            rules.check_epoch(self._storage.epoch, epoch)
            self._check_space()

    def read(self, after: int, limit: int = 1_000) -> list[JournalEntry]:
        """Up to `limit` (>= 1) entries with revision > `after` (>= 0), oldest first.

        Raises:
            Compacted: entries after `after` were removed.
            JournalUnavailable: closed.
        """
        rules.check_range(after, limit)
        with self._storage.lock:
            self._check_open()
            kept = self._storage.entries
            if not kept:
                return []
            start = after + 1 - kept[0].revision
            if start < 0:
                raise Compacted(kept[0].revision)
            return kept[start : start + limit]

    def newest(
        self, limit: int, *, after: int = 0, job: str = "", node: str = "", types: Sequence[str] = ()
    ) -> list[JournalEntry]:
        """The newest `limit` (>= 1) entries that match, oldest first, the archive's included. Empty filters match all.

        Raises:
            JournalUnavailable: closed.
        """
        rules.check_range(after, limit)
        found: list[JournalEntry] = []
        with self._storage.lock:
            self._check_open()
            for entry in chain(reversed(self._storage.entries), reversed(self._storage.archive)):
                if entry.revision <= after or len(found) == limit:
                    break
                if job in ("", entry.job) and node in ("", entry.node) and (not types or entry.type in types):
                    found.append(entry)
        found.reverse()
        return found

    def oldest(self, limit: int, *, after: int = 0, types: Sequence[str] = ()) -> list[JournalEntry]:
        """The oldest `limit` (>= 1) entries with revision > `after` that match, oldest first, the archive's included.

        Raises:
            JournalUnavailable: closed.
        """
        rules.check_range(after, limit)
        with self._storage.lock:
            self._check_open()
            kept = chain(self._storage.archive, self._storage.entries)
            matching = (entry for entry in kept if entry.revision > after and (not types or entry.type in types))
            return list(islice(matching, limit))

    def bounds(self) -> tuple[int, int]:
        """(oldest kept revision, newest revision); (1, 0) when empty.

        Raises:
            JournalUnavailable: closed.
        """
        with self._storage.lock:
            self._check_open()
            kept = self._storage.entries
            return (kept[0].revision, kept[-1].revision) if kept else (1, 0)

    def latest_snapshot(self) -> Snapshot | None:
        """The newest stored snapshot; None when none was stored.

        Raises:
            JournalUnavailable: closed.
        """
        with self._storage.lock:
            self._check_open()
            return rules.newest_intact(self._storage.snapshots)

    def store_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot, replacing one of the same revision; only the newest two are kept.

        Raises:
            JournalUnavailable: closed, full, or on request; nothing was kept.
            ValueError: the digest does not match, or the revision is not in the journal yet.
        """
        with self._storage.lock:
            self._check_writable()
            rules.check_snapshot(snapshot, self._storage.newest())
            self._check_space()
            others = [kept for kept in self._storage.snapshots if kept.revision != snapshot.revision]
            newest_first = sorted([*others, snapshot], key=lambda kept: kept.revision, reverse=True)
            self._storage.snapshots = newest_first[: rules.KEPT_SNAPSHOTS]

    def compact(self, before_revision: int) -> int:
        """Remove the entries with revision < `before_revision` and return how many; all but bookkeeping is archived.

        Raises:
            ValueError: no snapshot at or after `before_revision` is stored; nothing was removed.
            JournalUnavailable: closed, full, or on request; nothing was removed.
        """
        with self._storage.lock:
            self._check_writable()
            rules.check_compaction(self._storage.snapshots, before_revision)
            self._check_space()
            oldest = self._storage.entries[0].revision
            gone = self._storage.entries[: max(0, before_revision - oldest)]
            self._storage.archive.extend(entry for entry in gone if entry.type not in BOOKKEEPING)
            del self._storage.entries[: len(gone)]
            return len(gone)

    def forget(self, before_ns: int) -> int:
        """Delete archived records that are older than a time (Unix ns), and return how many.

        Raises:
            JournalUnavailable: closed, full, or on request; nothing was deleted.
        """
        with self._storage.lock:
            self._check_writable()
            kept = [entry for entry in self._storage.archive if entry.at_ns >= before_ns]
            deleted = len(self._storage.archive) - len(kept)
            self._storage.archive[:] = kept
            return deleted

    def extent(self) -> Extent:
        """What there is; its text counts as the space that it takes.

        Raises:
            JournalUnavailable: closed.
        """
        oldest, newest = self.bounds()
        with self._storage.lock:
            kept = (*self._storage.entries, *self._storage.archive)
            size = sum(len(entry.body) for entry in kept) + sum(len(s.body) for s in self._storage.snapshots)
            snapshot = max((stored.revision for stored in self._storage.snapshots), default=0)
            return Extent("memory", oldest, newest, snapshot, len(self._storage.archive), size)

    @contextmanager
    def content(self) -> Iterator[Content]:
        """Everything, as it is now.

        Raises:
            JournalUnavailable: closed.
        """
        snapshot = self.latest_snapshot()
        with self._storage.lock:
            archived, kept = list(self._storage.archive), list(self._storage.entries)
            epoch, newest = self._storage.epoch, self._storage.newest()
        yield Content(epoch, newest, snapshot, len(archived), len(kept), iter([*archived, *kept]))

    def lease(self) -> MemoryLease:
        """The lease of this storage."""
        return MemoryLease(self._storage)

    def close(self) -> None:
        """Make every later call of this object raise `JournalUnavailable`. May be called twice."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise JournalUnavailable("the journal was closed by this process; open it again")

    def _check_writable(self) -> None:
        self._check_open()
        if self._failures:
            raise JournalUnavailable(self._failures.pop(0))

    def _check_space(self) -> None:
        if self._storage.full:
            raise JournalUnavailable("the disk is full: free space; nothing was written")


class MemoryLease:
    """`engine.ports.LeaseStore` in memory. `now_ms`, the clock of the storage, is moved by hand; `away` makes it fail."""

    def __init__(self, storage: _Storage) -> None:
        self._storage = storage
        self.away = False

    def advance(self, ms: int) -> None:
        """Let time pass for everybody who shares the storage."""
        self._storage.now_ms += ms

    def look(self) -> Lease:
        """See `engine.ports.LeaseStore`."""
        self._check()
        kept = self._storage
        left_ms = max(0, kept.expires_ms - kept.now_ms)
        return Lease(kept.epoch, kept.holder, kept.address, kept.place, held=kept.expires_ms > 0, left_ms=left_ms)

    def take(self, seen: Lease, holder: str, address: str, place: str, lease_ms: int) -> int | None:
        """See `engine.ports.LeaseStore`."""
        self._check()
        kept = self._storage
        with kept.lock:
            if (kept.epoch, kept.holder) != (seen.epoch, seen.holder):
                return None
            kept.epoch += 1
            kept.holder, kept.address, kept.place = holder, address, place
            kept.expires_ms = kept.now_ms + lease_ms
            return kept.epoch

    def renew(self, epoch: int, lease_ms: int) -> None:
        """See `engine.ports.LeaseStore`."""
        self._check()
        with self._storage.lock:
            if self._storage.epoch != epoch:
                raise EpochLost(f"this controller's epoch {epoch} is over: {self._storage.holder} leads")
            self._storage.expires_ms = self._storage.now_ms + lease_ms

    def release(self, epoch: int) -> None:
        """See `engine.ports.LeaseStore`."""
        self._check()
        with self._storage.lock:
            if self._storage.epoch == epoch:
                self._storage.expires_ms = 0

    def close(self) -> None:
        """See `engine.ports.LeaseStore`."""

    def _check(self) -> None:
        if self.away:
            raise JournalUnavailable("the database is away, on request")
