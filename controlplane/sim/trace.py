"""What a run wrote down: a digest that tells whether two runs were the same, and lines for people."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from controlplane.core import records as r
from controlplane.core.recovery.rules import IMPLICIT
from controlplane.core.units import NS_PER_S
from controlplane.engine.ports import JournalEntry
from controlplane.sim.kernel import START_NS

_LONG = ("spec", "labels", "accelerators", "states", "at_ns", "not_before_ns", "budgets", "collect_until_ns")
"""Fields that a line does not show."""
_BESIDE = ("deadline_ns", "since_ns", "evidence_ids", "offence", "draw", "backoff_ns")
_UNUSUAL: dict[str, tuple[object, ...]] = {
    "sources": ((),), "passed_over": ((),), "redone_ns": (-1,),
    "rule": ("", IMPLICIT), "restore_limit": (-1,), "step_known": (True,), "why": ("",), "released": (False,),
    "participants": (0,), "keeps_state": (False,), "intact": (False,), "warm": (False,),
    "path_broken": (False,), "inherits": ("",), "dropped": ("",), "restart": (False,),
}  # fmt: skip
"""Fields that a line shows when they say something; with the values that say nothing."""


class Trace:
    """All records of a run in the order in which they became durable. `lines` only when they are kept."""

    def __init__(self, *, keep_lines: bool = True) -> None:
        self.keep_lines = keep_lines
        self.lines: list[str] = []
        self.records = 0
        self.revision = 0
        self._sha256 = hashlib.sha256()

    def add(self, entries: Iterable[JournalEntry], records: Iterable[r.Record]) -> None:
        """Take in what one turn wrote."""
        self.digest_only(entries)
        if self.keep_lines:
            at_ns = next((entry.at_ns for entry in entries), START_NS)
            self.lines.extend(line(at_ns, record) for record in records)

    def digest_only(self, entries: Iterable[JournalEntry]) -> None:
        """Take in what became durable outside of a turn, or before its process ended."""
        for entry in entries:
            self.records += 1
            self.revision = entry.revision
            head = f"{entry.revision} {entry.epoch} {entry.at_ns} {entry.cause} {entry.type} {entry.version} "
            self._sha256.update(head.encode())
            self._sha256.update(entry.body.encode())

    def digest(self) -> str:
        """SHA-256 over all records so far, hex."""
        return self._sha256.hexdigest()


def line(at_ns: int, record: r.Record) -> str:
    """One line of the readable trace: seconds since the site began, the record, its fields."""
    return f"{(at_ns - START_NS) / NS_PER_S:8.1f} {type(record).__name__} {brief(record)}"


def brief(record: r.Record) -> str:
    """A record in one short line, for golden files and failing tests."""
    parts = []
    for name in getattr(record, "__slots__", ()):
        value = getattr(record, name)
        match name:
            case _ if name in _LONG or name in _BESIDE or (name in _UNUSUAL and value in _UNUSUAL[name]):
                continue
            case "rules" if isinstance(record, r.RecoveryDecided) and record.rule in _UNUSUAL["rule"]:
                continue
            case "effects":
                value = " ".join(f"{e.kind}->{e.target}" for e in value)
            case "rows":
                value = " ".join(
                    f"{row.serial}:{row.state.name}" if hasattr(row, "serial") else str(row.index) for row in value
                )
            case "lost":
                value = [f"{entry.rank}: {entry.cause}" for entry in value]
            case "notes":
                value = "; ".join(
                    f"{note.entity} {note.code} {note.assertion} {note.level.name}: {note.reason}" for note in value
                )
            case "exit":
                value = "finished" if value.finished else f"code={value.code} signal={value.signal}"
            case "shards":
                value = "ranks " + " ".join(str(shard.rank) for shard in value)
            case _:
                pass
        parts.append(f"{name}={value.name if hasattr(value, 'name') else value}")
    return " ".join(parts)
