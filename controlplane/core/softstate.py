"""What is never journalled: beats, steps, how well we keep up ourselves. A port, so that production columns and closed forms
both fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from controlplane.core.health.distrust import Vitals
from controlplane.core.health.standstill import Stacks
from controlplane.core.health.stragglers import Standing, StragglerPolicy
from controlplane.core.recovery.restore_point import Copies
from controlplane.core.spec import Parallel


@dataclass(frozen=True, slots=True)
class StepTimes:
    """How long a job's steps took lately, those with a checkpoint included, the first of a generation not. `count`: how many were
    seen; `spread_ns`: their median deviation from the median; `longest_ns`: the longest time between two that were told of."""

    count: int = 0
    median_ns: int = 0
    spread_ns: int = 0
    longest_ns: int = 0


class SoftState(Protocol):
    """Answers about the recent past, all times in Unix nanoseconds."""

    def last_beat_ns(self, size: int) -> np.ndarray:
        """(size,) int64: last beat of each node by number; 0 when it has sent none to this process."""
        ...

    def trusted_since_ns(self) -> int:
        """Silence is only counted from here on: when this controller began to listen."""
        ...

    def excused_ns(self, since_ns: np.ndarray) -> np.ndarray:
        """For each moment, how long this controller itself was late since then: every deadline moves by that much."""
        ...

    def vitals(self) -> Vitals:
        """How well this controller keeps up."""
        ...

    def progress(self, job_uid: str) -> tuple[int, int]:
        """(newest step that any rank has finished, when we learned of it); (0, 0) when none."""
        ...

    def step_time_ns(self, job_uid: str) -> int:
        """How long a step of the job takes; 0 while it is not known."""
        ...

    def step_times(self, job_uid: str) -> StepTimes:
        """How long steps of the job took lately."""
        ...

    def stacks(self, effect_id: str) -> Stacks:
        """Where the ranks of a job stand, as far as agents have answered to this effect."""
        ...

    def copies(self, job_uid: str) -> Copies:
        """What ranks and agents hold of the job's state beside shared storage, as they say when asked at a recovery."""
        ...

    def node_progress_ns(self, job_uid: str, node: int) -> int:
        """When a rank on this node last told of a new step; 0 when never."""
        ...

    def slow_ranks(self, job_uid: str, ranks: int, parallel: Parallel, policy: StragglerPolicy) -> Standing | None:
        """How the ranks' own times compare, of so many ranks; None while too little is known."""
        ...
