"""What a run has reached: transitions of the state tables, rungs, rows of "Believing", and which fault led to which rung.

Cells are named by plain text (`job QUEUED > PLACING`, `rung ROLLBACK`, `belief LEASE`, `node x REPLACE_RANK`), so that
counts of many runs and processes add up, and so that a table can be printed with its zeros.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import IntEnum

from controlplane.core import records as r
from controlplane.core import vocabulary
from controlplane.core.health.suspicion import GROUND_TEXT, Ground
from controlplane.core.vocabulary import CheckpointState, NodeLiveness, Rung
from controlplane.sim.checkers.book import Book

Table = Mapping[IntEnum, frozenset[IntEnum]]

TABLES: Mapping[str, Table] = {
    "liveness": vocabulary.NODE_LIVENESS,
    "job": vocabulary.JOB_STATES,
    "checkpoint": vocabulary.CHECKPOINT_STATES,
}  # type: ignore[assignment] # each table maps members of its own enumeration
"""Every state table of the core. A test compares this with what `core.vocabulary` holds."""

GROUNDS: Mapping[str, Ground] = {text: ground for ground, text in GROUND_TEXT.items() if text}


def transition(table: str, before: IntEnum, after: IntEnum) -> str:
    """The cell of one transition."""
    return f"{table} {before.name} > {after.name}"


def cells(faults: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """All cells that there are, by section of the report. `faults`: every kind of fault."""
    return {
        "transitions": tuple(
            transition(name, before, after)
            for name, table in TABLES.items()
            for before in table
            for after in sorted(table[before])
        ),
        "rungs": tuple(f"rung {rung}" for rung in Rung),
        "believing": tuple(f"belief {ground.name}" for ground in Ground if ground is not Ground.NONE),
        "fault x rung": tuple(f"{kind} x {rung}" for kind in faults for rung in Rung),
    }


class Coverage:
    """Counts cells from records, each before the book folds it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def record(self, record: r.Record, book: Book, faults: Iterable[str]) -> None:
        """One record. `faults`: kinds of the faults that were at work just now."""
        match record:
            case r.LivenessChanged(nodes=nodes, liveness=liveness, reason=reason):
                self._liveness(nodes, liveness, book)
                ground = GROUNDS.get(reason)
                if ground is not None:
                    self.counts[f"belief {ground.name}"] += 1
            case r.RecoveryDecided(rung=rung):
                self.counts[f"rung {rung}"] += 1
                self.counts.update(f"{kind} x {rung}" for kind in faults)
            case r.CheckpointCommitted(job=uid, checkpoint=name):
                self._checkpoint(uid, name, CheckpointState.COMMITTED, book)
            case r.CheckpointVerified(job=uid, checkpoint=name):
                self._checkpoint(uid, name, CheckpointState.VERIFIED, book)
            case r.CheckpointPoisoned(job=uid, checkpoint=name):
                self._checkpoint(uid, name, CheckpointState.POISONED, book)
            case r.CheckpointsExpired(job=uid, checkpoints=names):
                for name in names:
                    self._checkpoint(uid, name, CheckpointState.EXPIRED, book)
            case _:
                pass

    def job_moved(self, before: IntEnum, after: IntEnum) -> None:
        """The book has read a record about a job, and its state is another one."""
        if before is not after:
            self.counts[transition("job", before, after)] += 1

    def _liveness(self, nodes: Iterable[str], after: NodeLiveness, book: Book) -> None:
        for name in nodes:
            before = book.node(name).liveness
            if before is not after:
                self.counts[transition("liveness", before, after)] += 1

    def _checkpoint(self, uid: str, name: str, after: CheckpointState, book: Book) -> None:
        line = book.jobs[uid].checkpoints.get(name)
        if line is not None and line.state is not after:
            self.counts[transition("checkpoint", line.state, after)] += 1
