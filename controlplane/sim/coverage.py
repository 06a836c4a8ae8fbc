"""What a run has reached: transitions of the state tables, rungs, rows of "Believing", and which fault led to which rung.

Cells are named by plain text (`job QUEUED > PLACING`, `rung ROLLBACK`, `belief LEASE`, `node x REPLACE_RANK`), so that
counts of many runs and processes add up, and so that a table can be printed with its zeros.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import Any

import numpy as np

from controlplane.core import records as r
from controlplane.core import vocabulary
from controlplane.core.fleet import Fleet
from controlplane.core.health.suspicion import GROUND_TEXT, Ground
from controlplane.core.units import seconds
from controlplane.core.vocabulary import CheckpointState, NodeService, Rung
from controlplane.sim.checkers.book import Book

TABLES: Mapping[str, Mapping[Any, frozenset[Any]]] = {
    "liveness": vocabulary.NODE_LIVENESS,
    "service": vocabulary.NODE_SERVICE,
    "job": vocabulary.JOB_STATES,
    "checkpoint": vocabulary.CHECKPOINT_STATES,
}
"""Every state table of the core. A test compares this with what `core.vocabulary` holds."""

CAUSE_S = 120.0
"""A fault that struck within this time before a verdict counts as at work."""

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
    """Counts cells from records as the book reads them, and remembers which faults have just struck."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._struck: dict[str, int] = {}

    def struck(self, kind: str, now_ns: int) -> None:
        """A fault of a kind has struck."""
        self.faults[kind] += 1
        self._struck[kind] = now_ns

    def verdict(self, record: r.Record, at_ns: int) -> None:
        """Count what a record says by itself: rungs with the faults just before them, grounds of belief."""
        match record:
            case r.LivenessChanged(reason=reason):
                ground = GROUNDS.get(reason)
                if ground is not None:
                    self.counts[f"belief {ground.name}"] += 1
            case r.RecoveryDecided(rung=rung):
                self.counts[f"rung {rung}"] += 1
                lately = at_ns - seconds(CAUSE_S)
                self.counts.update(
                    f"{kind} x {rung}" for kind, struck_ns in self._struck.items() if struck_ns >= lately
                )
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
