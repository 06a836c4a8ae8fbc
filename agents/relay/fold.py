"""What the beats of many nodes come down to until the next message upward: the newest of each, with its age."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from phalanx.v1 import agent_pb2, relay_pb2

STEPS_OF_A_NODE = 1_024
"""Ranks of one node whose steps are kept until they are told; a node has 256 devices at most."""

Generation = tuple[str, int]
"""Job and generation."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A finished step; `at_s`: monotonic."""

    step: int
    at_s: float
    loss: float
    step_time_s: float
    times: agent_pb2.StepTimes | None
    load: float
    gradient_norm: float


class Fold:
    """Beats and steps by slot. Holds nothing that was told."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beats: dict[int, float] = {}
        self._steps: dict[int, dict[tuple[Generation, int], _Step]] = {}
        self._sequence = 0
        self.dropped_steps = 0

    def heard(self, slot: int, beat: agent_pb2.Beat) -> None:
        """A beat has come."""
        now = self._beats[slot] = self._clock()
        if not beat.progress:
            return
        steps = self._steps.setdefault(slot, {})
        for row in beat.progress:
            key = (row.job_uid, row.generation), row.rank
            if not row.step:
                continue
            if len(steps) >= STEPS_OF_A_NODE and key not in steps:
                self.dropped_steps += 1
                continue
            times = row.times if row.HasField("times") else None
            norm = row.gradient_norm if row.HasField("gradient_norm") else math.nan
            steps[key] = _Step(row.step, now - row.age_ms / 1_000, row.loss, row.step_time_s, times, row.load, norm)

    def forget(self, slot: int) -> None:
        """The node's stream has ended: its slot may become another's."""
        self._beats.pop(slot, None)
        self._steps.pop(slot, None)

    def take(self) -> relay_pb2.RelayedBeats | None:
        """All that is new, as columns; None when nothing is."""
        if not self._beats:
            return None
        now = self._clock()
        self._sequence += 1
        beats = relay_pb2.RelayedBeats(
            sequence=self._sequence,
            slots=self._beats.keys(),
            ages_ms=[_age_ms(at, now) for at in self._beats.values()],
            steps=self._columns(now),
            sent_ns=time.time_ns(),
        )
        self._beats.clear()
        self._steps.clear()
        return beats

    def _columns(self, now: float) -> list[relay_pb2.RelayedSteps]:
        found: dict[Generation, relay_pb2.RelayedSteps] = {}
        for slot, steps in self._steps.items():
            for (generation, rank), row in steps.items():
                columns = found.get(generation)
                if columns is None:
                    columns = found[generation] = relay_pb2.RelayedSteps(
                        job_uid=generation[0], generation=generation[1]
                    )
                columns.ranks.append(rank)
                columns.slots.append(slot)
                columns.steps.append(row.step)
                columns.ages_ms.append(_age_ms(row.at_s, now))
                columns.losses.append(row.loss)
                columns.step_times_s.append(row.step_time_s)
                if row.times is not None:
                    _add_times(columns, row.times, row.load)
                columns.gradient_norms.append(row.gradient_norm)
        return [*found.values()]


def _add_times(columns: relay_pb2.RelayedSteps, times: agent_pb2.StepTimes, load: float) -> None:
    """Phase times of the row that was added last."""
    columns.timed.append(len(columns.ranks) - 1)
    columns.times_steps.append(times.steps)
    columns.total_us.append(times.total_us)
    columns.waiting_us.append(times.waiting_us)
    columns.data_us.append(times.data_us)
    columns.collection_us.append(times.collection_us)
    columns.checkpoint_us.append(times.checkpoint_us)
    columns.loads.append(load)


def _age_ms(at_s: float, now_s: float) -> int:
    return max(0, round((now_s - at_s) * 1_000))
