"""The journal in memory, for unit tests and the simulation: the real one's rules, plus switches that make it fail."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from controlplane.adapters.journal import rules
from controlplane.engine.ports import Compacted, JournalEntry, JournalUnavailable, Snapshot


@dataclass(slots=True)
class _Storage:
    """What survives the end of a process."""

    entries: list[JournalEntry] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)  # newest first
    epoch: int = 0
    holder: str = ""
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
            return self._storage.epoch

    def append(self, entries: Sequence[JournalEntry]) -> None:
        """Keep all entries, or none. No entries: nothing happens.

        Raises:
            JournalUnavailable: closed, full, or on request; nothing was kept.
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
            self._storage.entries.extend(entries)

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
        """The newest `limit` (>= 1) kept entries that match, oldest first. Empty filters match everything.

        Raises:
            JournalUnavailable: closed.
        """
        rules.check_range(after, limit)
        found: list[JournalEntry] = []
        with self._storage.lock:
            self._check_open()
            for entry in reversed(self._storage.entries):
                if entry.revision <= after or len(found) == limit:
                    break
                if job in ("", entry.job) and node in ("", entry.node) and (not types or entry.type in types):
                    found.append(entry)
        found.reverse()
        return found

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
        """Delete the entries with revision < `before_revision` and return how many.

        Raises:
            ValueError: no snapshot at or after `before_revision` is stored; nothing was deleted.
            JournalUnavailable: closed, full, or on request; nothing was deleted.
        """
        with self._storage.lock:
            self._check_writable()
            rules.check_compaction(self._storage.snapshots, before_revision)
            self._check_space()
            oldest = self._storage.entries[0].revision
            deleted = max(0, before_revision - oldest)
            del self._storage.entries[:deleted]
            return deleted

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
