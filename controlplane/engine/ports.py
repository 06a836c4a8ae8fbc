"""What the turn needs from outside: a journal, a sink for effects, soft state and a clock. Plain protocols, plain values."""

from __future__ import annotations

from collections.abc import Sequence
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


class Journal(Protocol):
    """Append-only log of records. Acknowledged means fsynced. One writer; reads may come from other threads and processes."""

    def acquire(self, holder: str) -> int:
        """Take leadership: raise the epoch by one in one transaction and return it."""
        ...

    def append(self, entries: Sequence[JournalEntry]) -> None:
        """Make all entries durable in one transaction, or none.

        Raises:
            JournalUnavailable: nothing was written.
            EpochLost: the journal's epoch is higher than the entries'.
        """
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
        """The newest `limit` entries that match, oldest first. Empty filters match everything."""
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

    def close(self) -> None:
        """Release connections."""
        ...
