"""What the turn needs from outside: a journal, a sink for effects, soft state and a clock. Plain protocols, plain values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One durable record.

    `revision` grows by one with every record of the site. `at_ns` is the decision's time (Unix nanoseconds), `cause` names
    the event it answers, `body` is JSON text. `job` and `node` are for filtered reads ("" when none).
    """

    revision: int
    epoch: int
    at_ns: int
    cause: str
    type: str
    version: int
    body: str
    job: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole state after `revision`, as JSON text, with the SHA-256 of that text in hex."""

    revision: int
    digest: str
    body: str


class JournalUnavailable(Exception):
    """Nothing of the append is durable: disk full, read-only, database away. The caller may try again with the same entries."""


class JournalUncertain(JournalUnavailable):
    """The connection ended during the commit: all of the append is durable, or nothing. `Journal.stored` finds out which,
    and must, before anything else is written."""


class EpochLost(Exception):
    """Another controller leads. This process must end at once without touching anything."""


class JournalCorrupt(Exception):
    """The journal holds something that this version cannot read; the message says what and which version can."""


class Compacted(Exception):
    """The asked revision is older than the oldest kept one.

    Attributes:
        oldest: the oldest revision that can still be read.
    """

    def __init__(self, oldest: int) -> None:
        super().__init__(f"revisions before {oldest} are compacted; start from a snapshot or from revision {oldest}")
        self.oldest = oldest


@dataclass(frozen=True, slots=True)
class Lease:
    """The leader's row. `held`: somebody has taken the lease and not given it back; `left_ms`: what is left of it by the
    database's clock, 0 when it is over.

    `address`: where the leader serves. `place`: the machine and the port that it holds there; whoever has bound that port
    since knows that the holder is dead.
    """

    epoch: int
    holder: str
    address: str
    place: str
    held: bool
    left_ms: int


@dataclass(frozen=True, slots=True)
class Extent:
    """What the journal holds. `oldest` and `newest` are revisions ((1, 0): empty), `snapshot` that of the newest snapshot (0:
    none), `archived` the number of kept records before `oldest`, `bytes` the space taken on disk.
    """

    kind: str
    oldest: int
    newest: int
    snapshot: int
    archived: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Content:
    """Everything that a journal holds at one moment: `entries` are the `archived` ones, then the `kept` ones, by revision.
    `newest` is the last one's, 0: none."""

    epoch: int
    newest: int
    snapshot: Snapshot | None
    archived: int
    kept: int
    entries: Iterator[JournalEntry]


class LeaseStore(Protocol):
    """The lease row, on a connection of its own, so that no slow append delays a renewal. Raises `JournalUnavailable`."""

    def look(self) -> Lease:
        """The row now."""
        ...

    def take(self, seen: Lease, holder: str, address: str, place: str, lease_ms: int) -> int | None:
        """Become the leader if the row's epoch and holder still are those that were seen: the new epoch, None if not."""
        ...

    def renew(self, epoch: int, lease_ms: int) -> None:
        """Hold on for another `lease_ms`.

        Raises:
            EpochLost: another controller leads.
        """
        ...

    def release(self, epoch: int) -> None:
        """End the lease now, so that a standby need not wait. Nothing happens when another one leads."""
        ...

    def close(self) -> None:
        """Release the connection."""
        ...


class Appender(Protocol):
    """What a turn needs of a journal. Acknowledged means fsynced."""

    def append(self, entries: Sequence[JournalEntry]) -> None:
        """Make all entries durable in one transaction, or none.

        Raises:
            JournalUnavailable: nothing was written.
            JournalUncertain: all of it was written, or nothing: ask `stored` before the next append.
            EpochLost: the journal's epoch is higher than the entries'.
        """
        ...

    def stored(self, entries: Sequence[JournalEntry]) -> bool:
        """Whether an append of uncertain outcome is durable. Waits for a commit that is still under way.

        Raises:
            JournalUnavailable: still not known.
            EpochLost: another controller leads.
        """
        ...

    def probe(self, epoch: int, entries: Sequence[JournalEntry] = ()) -> None:
        """Find out whether an append would work now; of these entries, which an append has just not kept, if there are any.
        Changes nothing.

        Raises:
            JournalUnavailable: no; the message says why.
            EpochLost: another controller leads.
        """
        ...


class Journal(Appender, Protocol):
    """Append-only log of records. Acknowledged means fsynced. One writer; reads may come from other threads and processes."""

    def acquire(self, holder: str) -> int:
        """Take leadership: raise the epoch by one in one transaction and return it."""
        ...

    def read(self, after: int, limit: int = 1_000) -> list[JournalEntry]:
        """Entries with revision > `after`, oldest first.

        Raises:
            Compacted: entries after `after` were removed.
        """
        ...

    def newest(
        self, limit: int, *, after: int = 0, job: str = "", node: str = "", types: Sequence[str] = ()
    ) -> list[JournalEntry]:
        """The newest `limit` entries that match, oldest first. Empty filters match everything. Reads the archive too."""
        ...

    def oldest(self, limit: int, *, after: int = 0, types: Sequence[str] = ()) -> list[JournalEntry]:
        """The oldest `limit` entries with revision > `after` that match, oldest first. Reads the archive too, which has holes:
        a page that begins after the last one's end misses nothing that is still kept."""
        ...

    def bounds(self) -> tuple[int, int]:
        """(oldest kept revision, newest revision); (1, 0) when empty."""
        ...

    def latest_snapshot(self) -> Snapshot | None:
        """The newest stored snapshot."""
        ...

    def store_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot; older ones beyond the newest two are dropped."""
        ...

    def compact(self, before_revision: int) -> int:
        """Remove entries with revision < `before_revision`, and return how many. What explains decisions is archived.

        Raises:
            ValueError: no intact snapshot at or after `before_revision` is stored; nothing was removed.
        """
        ...

    def forget(self, before_ns: int) -> int:
        """Delete archived records that are older than a time (Unix ns), and return how many."""
        ...

    def extent(self) -> Extent:
        """What there is, and the space that it takes."""
        ...

    def content(self) -> AbstractContextManager[Content]:
        """Everything, as it is now, for a backup; it can be read inside the block, once."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...
