"""Steps that nodes tell in their beats, gathered for a moment: thousands of rows become columns that are judged at once.

A gang of 50,000 ranks that finishes a step tells so in 6,250 beats within a second. Row by row that is half a core; what is read
of a row here is its numbers, and everything else is numpy's.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from phalanx.v1 import agent_pb2

from controlplane.core.state import State
from controlplane.core.units import NS_PER_MS
from controlplane.engine.soft import StepColumns
from controlplane.rpc.phase_times import columns_of, row_times
from controlplane.rpc.progress import ProgressGate

TOGETHER_S = 0.05
"""Steps are told to the soft state this late at most."""
MOST_ROWS = 65_536
"""More are not kept back: what they take is bounded."""
LARGEST = 1 << 38
"""Steps and ages (ms) are cut to this: nanoseconds hold it, and no job gets there."""


@dataclass(slots=True)
class _Columns:
    """Rows of one generation."""

    nodes: list[int] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    ages_ms: list[int] = field(default_factory=list)
    now_ns: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    step_times_s: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)

    def made(self) -> StepColumns:
        """As columns; nothing happened before the epoch of time."""
        now_ns, ages_ms = np.array(self.now_ns, dtype=np.int64), np.array(self.ages_ms, dtype=np.int64)
        return StepColumns(
            ranks=np.array(self.ranks, dtype=np.int64),
            nodes=np.array(self.nodes, dtype=np.int64),
            steps=np.array(self.steps, dtype=np.int64),
            at_ns=np.maximum(now_ns - np.minimum(ages_ms, now_ns // NS_PER_MS) * NS_PER_MS, 1),
            losses=np.array(self.losses, dtype=np.float64),
            step_times_s=np.array(self.step_times_s, dtype=np.float64),
            times=columns_of(self.times),
            gradient_norms=np.array(self.gradient_norms, dtype=np.float64),
        )


class ToldSteps:
    """Lives on the edge's loop. `refused` is told how many rows were not kept."""

    def __init__(
        self,
        gate: ProgressGate,
        state: Callable[[], State],
        refused: Callable[[int], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._gate = gate
        self._state = state
        self._refused = refused
        self._loop = loop
        self._told: dict[tuple[str, int], _Columns] = {}
        self._nodes: set[int] = set()
        self._rows = 0
        self._due = False

    def take(self, node: int, rows: Iterable[agent_pb2.StepProgress], now_ns: int) -> None:
        """A node's beat tells of finished steps."""
        if not self._due:
            self._due = True
            self._loop.call_later(TOGETHER_S, self._tell_in_time)
        self._nodes.add(node)
        for row in rows:
            step = row.step
            if not step:
                continue
            key = row.job_uid, row.generation
            columns = self._told.get(key)
            if columns is None:
                if not self._in_force(*key):
                    self._refused(1)
                    continue
                columns = self._told[key] = _Columns()
            columns.nodes.append(node)
            columns.ranks.append(row.rank)
            columns.steps.append(min(step, LARGEST))
            columns.ages_ms.append(min(row.age_ms, LARGEST))
            columns.now_ns.append(now_ns)
            columns.losses.append(row.loss)
            columns.step_times_s.append(row.step_time_s)
            columns.times.extend(row_times(row))
            columns.gradient_norms.append(row.gradient_norm if row.HasField("gradient_norm") else math.nan)
            self._rows += 1
        if self._rows >= MOST_ROWS:
            self.tell()

    def _in_force(self, uid: str, generation: int) -> bool:
        """Whether steps of a generation are worth columns; the gate looks again when it takes them."""
        job = self._state().jobs.get(uid)
        return job is not None and not job.terminal and job.generation == generation

    def tell_of(self, node: int) -> None:
        """A node says something that comes after its steps: they are told first."""
        if node in self._nodes:
            self.tell()

    def _tell_in_time(self) -> None:
        self._due = False
        self.tell()

    def tell(self) -> None:
        """Tell the soft state what has come so far."""
        told, self._told, self._rows = self._told, {}, 0
        self._nodes.clear()
        refused = 0
        for (job, generation), columns in told.items():
            refused += self._gate.steps(self._state, job, generation, columns.made())
        if refused:
            self._refused(refused)
