"""The engine's journal in memory, with every way in which a real one fails: slow, refusing, uncertain, full, cut by a crash.

`adapters.journal.memory` keeps the same promises for threads; it is not this one because the simulator knows no adapters, and
needs no locks. tests/unit/sim/test_sim_journal.py holds one against the other, operation by operation.

All handles from `open_again` share one storage, as processes share a database: what one has stored, the next one reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from controlplane.core.retention import BOOKKEEPING
from controlplane.engine.ports import (
    Compacted,
    Content,
    EpochLost,
    Extent,
    JournalEntry,
    JournalUnavailable,
    JournalUncertain,
    Snapshot,
)

KEPT_SNAPSHOTS = 2


class CrashPoint(StrEnum):
    """Where in a turn the controller's process ends."""

    BEFORE_APPEND = "before_append"
    AFTER_APPEND = "after_append"
    BEFORE_EFFECTS = "before_effects"


class ControllerCrashed(Exception):
    """The simulated process of the controller has ended; nothing in it runs any further."""


@dataclass(slots=True)
class Storage:
    """What survives the end of a process. `fsync_s`: how long every append takes; `full`: it takes none."""

    entries: list[JournalEntry] = field(default_factory=list)
    archive: list[JournalEntry] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    epoch: int = 0
    full: bool = False
    fsync_s: float = 0.0

    def newest(self) -> int:
        """Revision of the last entry, 0: none."""
        return self.entries[-1].revision if self.entries else 0


class SimJournal:
    """`engine.ports.Journal` of one simulated process. Deterministic, single-threaded."""

    def __init__(self, storage: Storage | None = None) -> None:
        self.storage = storage or Storage()
        self._failures: list[str] = []
        self._cut: bool | None = None
        self.crash: CrashPoint | None = None

    # Faults

    def open_again(self) -> SimJournal:
        """A handle of another process on the same storage, without this one's pending faults."""
        return SimJournal(self.storage)

    def fail_next(self, times: int = 1, message: str = "failed on request") -> None:
        """Let the next `times` writes raise `JournalUnavailable`; nothing of them is kept."""
        self._failures.extend([message] * times)

    def cut_next_commit(self, *, kept: bool) -> None:
        """Let the next append raise `JournalUncertain`; `kept`: it is durable all the same."""
        self._cut = kept

    def heal(self) -> None:
        """End every pending fault of this handle and of the storage."""
        self._failures.clear()
        self._cut = self.crash = None
        self.storage.full = False
        self.storage.fsync_s = 0.0

    # The port

    def acquire(self, holder: str) -> int:
        """Raise the epoch by one and return it. `holder` is for people and not kept here."""
        self._check_writable()
        self._check_space()
        self.storage.epoch += 1
        return self.storage.epoch

    def append(self, entries: Sequence[JournalEntry]) -> None:
        """Keep all entries, or none. See `engine.ports.Journal`; may also end the controller's process.

        Raises:
            ControllerCrashed: on request, before or after the entries were kept.
            ValueError: a gap, a clash, or mixed epochs: a defect of the engine.
        """
        if not entries:
            return
        if self.crash is CrashPoint.BEFORE_APPEND:
            raise ControllerCrashed("killed before the append")
        self._check_writable()
        self._check_epoch(entries)
        for expected, entry in enumerate(entries, start=self.storage.newest() + 1):
            if entry.revision != expected:
                raise ValueError(f"an append holds revision {entry.revision} where {expected} must be")
        self._check_space()
        cut, self._cut = self._cut, None
        if cut is not False:
            self.storage.entries.extend(entries)
        if self.crash is CrashPoint.AFTER_APPEND:
            raise ControllerCrashed("killed after the append, before the state was published")
        if cut is not None:
            raise JournalUncertain("the connection ended during a commit, on request")

    def stored(self, entries: Sequence[JournalEntry]) -> bool:
        """Whether an append of uncertain outcome was kept."""
        self._check_writable()
        self._check_epoch(entries)
        return self.storage.newest() >= entries[-1].revision

    def probe(self, epoch: int, entries: Sequence[JournalEntry] = ()) -> None:
        """Whether an append would work now."""
        self._check_writable()
        if self.storage.epoch != epoch:
            raise EpochLost(f"this controller's epoch {epoch} is over, epoch {self.storage.epoch} leads")
        self._check_space()

    def read(self, after: int, limit: int = 1_000) -> list[JournalEntry]:
        """Entries with revision > `after`, oldest first."""
        kept = self.storage.entries
        if not kept:
            return []
        start = after + 1 - kept[0].revision
        if start < 0:
            raise Compacted(kept[0].revision)
        return kept[start : start + limit]

    def newest(
        self, limit: int, *, after: int = 0, job: str = "", node: str = "", types: Sequence[str] = ()
    ) -> list[JournalEntry]:
        """The newest `limit` entries that match, oldest first."""
        found = [entry for entry in self._all(after) if _matches(entry, job, node, types)]
        return found[-limit:]

    def oldest(self, limit: int, *, after: int = 0, types: Sequence[str] = ()) -> list[JournalEntry]:
        """The oldest `limit` entries that match, oldest first."""
        return [entry for entry in self._all(after) if _matches(entry, "", "", types)][:limit]

    def bounds(self) -> tuple[int, int]:
        """(oldest kept revision, newest revision); (1, 0) when empty."""
        kept = self.storage.entries
        return (kept[0].revision, kept[-1].revision) if kept else (1, 0)

    def latest_snapshot(self) -> Snapshot | None:
        """The newest stored snapshot."""
        return self.storage.snapshots[0] if self.storage.snapshots else None

    def store_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot, replacing one of the same revision; only the newest two are kept.

        Raises:
            ValueError: the digest is not that of the text, or the revision is not in the journal.
        """
        self._check_writable()
        if hashlib.sha256(snapshot.body.encode()).hexdigest() != snapshot.digest:
            raise ValueError(f"the digest of the snapshot after revision {snapshot.revision} is not that of its text")
        if not 1 <= snapshot.revision <= self.storage.newest():
            raise ValueError(f"a snapshot after revision {snapshot.revision}, the newest is {self.storage.newest()}")
        self._check_space()
        others = [kept for kept in self.storage.snapshots if kept.revision != snapshot.revision]
        newest_first = sorted([*others, snapshot], key=lambda kept: kept.revision, reverse=True)
        self.storage.snapshots = newest_first[:KEPT_SNAPSHOTS]

    def compact(self, before_revision: int) -> int:
        """Remove entries with revision < `before_revision`; what explains decisions is archived.

        Raises:
            ValueError: no snapshot at or after `before_revision` is stored.
        """
        self._check_writable()
        if not any(snapshot.revision >= before_revision for snapshot in self.storage.snapshots):
            raise ValueError(f"no snapshot at or after revision {before_revision}; nothing was removed")
        self._check_space()
        oldest = self.storage.entries[0].revision
        gone = self.storage.entries[: max(0, before_revision - oldest)]
        self.storage.archive.extend(entry for entry in gone if entry.type not in BOOKKEEPING)
        del self.storage.entries[: len(gone)]
        return len(gone)

    def forget(self, before_ns: int) -> int:
        """Delete archived records that are older than a time, and return how many."""
        self._check_writable()
        kept = [entry for entry in self.storage.archive if entry.at_ns >= before_ns]
        deleted = len(self.storage.archive) - len(kept)
        self.storage.archive[:] = kept
        return deleted

    def extent(self) -> Extent:
        """What there is; its text counts as the space that it takes."""
        oldest, newest = self.bounds()
        size = sum(len(entry.body) for entry in self._all(0)) + sum(len(kept.body) for kept in self.storage.snapshots)
        snapshot = self.latest_snapshot()
        return Extent(
            "simulated", oldest, newest, snapshot.revision if snapshot else 0, len(self.storage.archive), size
        )

    @contextmanager
    def content(self) -> Iterator[Content]:
        """Everything, as it is now."""
        archived, kept = list(self.storage.archive), list(self.storage.entries)
        newest = self.storage.newest()
        yield Content(
            self.storage.epoch, newest, self.latest_snapshot(), len(archived), len(kept), iter([*archived, *kept])
        )

    def close(self) -> None:
        """Nothing to release."""

    def _all(self, after: int) -> Iterator[JournalEntry]:
        for part in (self.storage.archive, self.storage.entries):
            yield from (entry for entry in part if entry.revision > after)

    def _check_writable(self) -> None:
        if self._failures:
            raise JournalUnavailable(self._failures.pop(0))

    def _check_space(self) -> None:
        if self.storage.full:
            raise JournalUnavailable("the disk is full: free space; nothing was written")

    def _check_epoch(self, entries: Sequence[JournalEntry]) -> None:
        epochs = {entry.epoch for entry in entries}
        if epochs == {self.storage.epoch}:
            return
        if max(epochs) < self.storage.epoch:
            raise EpochLost(f"epoch {max(epochs)} is over, epoch {self.storage.epoch} leads; nothing was written")
        raise ValueError(f"an append of epochs {sorted(epochs)}, the journal's is {self.storage.epoch}")


def _matches(entry: JournalEntry, job: str, node: str, types: Sequence[str]) -> bool:
    return job in ("", entry.job) and node in ("", entry.node) and (not types or entry.type in types)
