"""What every journal refuses, whatever stores it. A `ValueError` here is a bug of the caller, never the disk's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from controlplane.engine.ports import EpochLost, JournalCorrupt, JournalEntry, Snapshot

KEPT_SNAPSHOTS = 2
"""The newest and the one to fall back on when the newest is damaged."""


def check_batch(entries: Sequence[JournalEntry]) -> int:
    """Return the epoch that all entries share; their revisions must grow by one.

    Raises:
        ValueError: mixed epochs, or revisions with a gap or a repeat.
    """
    first = entries[0]
    for expected, entry in enumerate(entries, start=first.revision):
        if entry.epoch != first.epoch:
            raise ValueError(f"one append mixes epochs {first.epoch} and {entry.epoch}")
        if entry.revision != expected:
            raise ValueError(f"one append holds revision {entry.revision} where {expected} must be")
    return first.epoch


def check_epoch(current: int, mine: int) -> None:
    """Compare the journal's epoch with the entries'.

    Raises:
        EpochLost: the journal's is higher.
        ValueError: the entries' is higher, so it was never acquired here.
    """
    if current > mine:
        raise EpochLost(f"this controller's epoch {mine} is over, epoch {current} leads; nothing was written")
    if current < mine:
        raise ValueError(f"epoch {mine} was never acquired here, the journal's epoch is {current}")


def check_continues(newest: int, first: int) -> None:
    """Require that `first` is the revision right after `newest`.

    Raises:
        ValueError: a gap or a clash.
    """
    if first != newest + 1:
        kind = "clashes with" if first <= newest else "leaves a gap after"
        raise ValueError(f"revision {first} {kind} the journal's newest revision {newest}; nothing was written")


def check_range(after: int, limit: int) -> None:
    """Require `after` >= 0 and `limit` >= 1.

    Raises:
        ValueError: otherwise.
    """
    if after < 0 or limit < 1:
        raise ValueError(f"a read needs after >= 0 and limit >= 1, got after={after} and limit={limit}")


def is_intact(snapshot: Snapshot) -> bool:
    """Whether the text still is the one that was digested."""
    return hashlib.sha256(snapshot.body.encode()).hexdigest() == snapshot.digest


def check_snapshot(snapshot: Snapshot, newest: int) -> None:
    """Require a digest that matches and a revision that the journal has reached.

    Raises:
        ValueError: otherwise.
    """
    if not 1 <= snapshot.revision <= newest:
        raise ValueError(f"a snapshot after revision {snapshot.revision}, but the journal's newest is {newest}")
    if not is_intact(snapshot):
        raise ValueError(
            f"the digest of the snapshot after revision {snapshot.revision} is not the SHA-256 of its text"
        )


def newest_intact(stored: Sequence[Snapshot]) -> Snapshot | None:
    """The first intact one of `stored` (newest first), None when none is stored.

    Raises:
        JournalCorrupt: some are stored and all are damaged.
    """
    for snapshot in stored:
        if is_intact(snapshot):
            return snapshot
    if stored:
        raise JournalCorrupt("no stored snapshot matches its digest; restore the journal from a backup")
    return None


def check_compaction(stored: Sequence[Snapshot], before_revision: int) -> None:
    """Require an intact snapshot at or after `before_revision`, which also keeps the newest entry.

    Raises:
        ValueError: there is none.
    """
    if not any(snapshot.revision >= before_revision and is_intact(snapshot) for snapshot in stored):
        raise ValueError(
            f"no intact snapshot at or after revision {before_revision}; store one first, nothing was deleted"
        )
