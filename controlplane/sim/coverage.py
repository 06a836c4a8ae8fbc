"""What a run has reached: transitions of the state tables, rungs, rows of "Believing", and which fault led to which rung.

Cells are named by plain text (`job QUEUED > PLACING`, `rung ROLLBACK`, `belief LEASE`), so that counts of many runs and
processes add up, and so that a table can be printed with its zeros.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from controlplane.core import records as r
from controlplane.core import vocabulary
from controlplane.core.fleet import Fleet
from controlplane.core.health.suspicion import GROUND_TEXT, Ground
from controlplane.core.vocabulary import CheckpointState, NodeService, Rung
from controlplane.sim.causes import Causes
from controlplane.sim.checkers.book import Book

if TYPE_CHECKING:
    from controlplane.sim.world.site import World

TABLES: Mapping[str, Mapping[Any, frozenset[Any]]] = {
    "liveness": vocabulary.NODE_LIVENESS,
    "service": vocabulary.NODE_SERVICE,
    "job": vocabulary.JOB_STATES,
    "checkpoint": vocabulary.CHECKPOINT_STATES,
}
"""Every state table of the core. A test compares this with what `core.vocabulary` holds."""

States = dict[tuple[str, str], IntEnum]

CHECKPOINTS = (
    r.CheckpointCommitted, r.CheckpointVerified, r.CheckpointPoisoned, r.CheckpointsExpired, r.CorruptionSuspected,
    r.CorruptionCleared,
)  # fmt: skip
"""Records that change states of checkpoints."""

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
    """Counts cells from records as the book reads them. A verdict whose fault is known counts as `node x REPLACE_RANK`, one
    that merely followed a fault as `node ~ REPLACE_RANK`."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._causes = Causes()

    def struck(self, kind: str, target: str, world: World) -> None:
        """A fault of a kind has struck."""
        self.faults[kind] += 1
        self._causes.struck(kind, target, world)

    def verdict(self, record: r.Record, book: Book, now_ns: int) -> None:
        """Count what a record says by itself: rungs with the faults that led to them, grounds of belief. `now_ns`: the
        world's time; the book is as it was before the record."""
        self._causes.lost(record, book)
        match record:
            case r.LivenessChanged(reason=reason):
                ground = GROUNDS.get(reason)
                if ground is not None:
                    self.counts[f"belief {ground.name}"] += 1
            case r.RecoveryDecided(job=uid, rung=rung):
                self.counts[f"rung {rung}"] += 1
                cause = self._causes.of(uid, now_ns)
                if cause:
                    self.counts[f"{cause} x {rung}"] += 1
                else:
                    self.counts.update(f"{kind} ~ {rung}" for kind in self._causes.shortly_before(now_ns))
            case _:
                pass

    @staticmethod
    def states(record: r.Record, book: Book) -> States:
        """States of what a record is about, by table and name, as the book knows them now."""
        found: States = {}
        job = book.jobs.get(r.subject(record)[0])
        if job is not None:
            found["job", job.uid] = job.state
            if isinstance(record, CHECKPOINTS):
                found.update((("checkpoint", name), line.state) for name, line in job.checkpoints.items())
        if isinstance(record, r.LivenessChanged):
            found.update((("liveness", name), book.node(name).liveness) for name in record.nodes)
        return found

    def serving(self, before: Fleet, after: Fleet) -> None:
        """Count changes of service from one published fleet to the next."""
        if before.service is after.service:
            return
        size = before.size
        for node in np.flatnonzero(before.service != after.service[:size]).tolist():
            was, now = NodeService(int(before.service[node])), NodeService(int(after.service[node]))
            self.counts[transition("service", was, now)] += 1
        for service in after.service[size:].tolist():
            self.counts[transition("service", NodeService.JOINING, NodeService(service))] += 1

    def moved(self, before: States, after: States) -> None:
        """Count transitions. A checkpoint that is no longer there has expired."""
        for (table, name), state in before.items():
            now = after.get((table, name), CheckpointState.EXPIRED if table == "checkpoint" else state)
            if now is not state:
                self.counts[transition(table, state, now)] += 1
