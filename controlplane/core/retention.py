"""What of the journal is kept, and for how long. Pure: the follower asks, and compacts."""

from __future__ import annotations

from dataclasses import dataclass

BOOKKEEPING = frozenset(
    {
        "EffectsFinished",
        "EffectsIssued",
        "HostsForgotten",
        "HostsObserved",
        "HostsReached",
        "RequestAnswered",
        "ShardReported",  # of journals up to 0.2
        "ShardsReported",
    }
)
"""Types that explain no decision: they go with compaction. Every other type moves to the archive, new ones included."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How much stays. `records`: in the journal, for replays and watches; `age_ns`: older ones go first; `bytes`: beyond it
    everything goes that the newest snapshot makes unnecessary; `decisions_ns`: age limit of archived records.
    """

    records: int
    age_ns: int
    bytes: int
    decisions_ns: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What is there: the first and newest revision, that of the newest snapshot, the first one that is young enough (the
    revision after the newest when none is), and the bytes on disk.
    """

    oldest: int
    newest: int
    snapshot: int
    young: int
    bytes: int


def compact_before(retention: Retention, kept: Kept) -> int:
    """The revision before which entries may go; `kept.oldest` or lower: none may.

    The newest snapshot is the limit: a start needs every entry after it.
    """
    wanted = max(kept.young, kept.newest - retention.records + 1)
    if kept.bytes > retention.bytes:
        wanted = kept.snapshot
    return min(wanted, kept.snapshot)
