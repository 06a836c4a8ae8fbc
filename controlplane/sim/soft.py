"""Soft state in closed form: what production keeps in columns of beats and steps, computed from the world when it is asked.

A living agent whose path is whole has always just beaten; a job that makes steps has made as many as fit in the time. So a
quiet day of the site costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from controlplane.core import records as r
from controlplane.core.health.distrust import LagLog, Vitals
from controlplane.core.health.standstill import Stacks
from controlplane.core.health.stragglers import Standing, StragglerPolicy
from controlplane.core.recovery.restore_point import Copies
from controlplane.core.softstate import StepTimes
from controlplane.core.spec import Parallel
from controlplane.engine.standstill import StackAnswers
from controlplane.sim.copies import held

if TYPE_CHECKING:
    from controlplane.core.fleet import Fleet
    from controlplane.sim.world.site import World

HEARD = -1

STALL_TOLERANCE_NS = 400_000_000
"""As `engine.soft.STALL_TOLERANCE_NS`."""

SLOW_APPEND_NS = 250_000_000
"""As `engine.soft.SLOW_APPEND_NS`."""


class SimSoft:
    """`core.softstate.SoftState` of one controller process; all its times are by that process's `clock`.

    `fleet`: who has which number, as that process knows it. Nodes of its first fleet have sent it no beat yet.
    """

    def __init__(self, world: World, clock: Callable[[], int], fleet: Fleet) -> None:
        self._world = world
        self._clock = clock
        self.trusted_ns = clock()
        self.fleet = fleet
        self._lags = LagLog()
        self._vitals = Vitals()
        self._stacks = StackAnswers()
        self._listens_since_ns = world.now_ns
        self._told: set[str] = set()
        self._rewound: dict[str, tuple[int, int]] = {}
        self._silent = np.zeros(0, dtype=np.int64)
        self._silent_since: dict[str, int] = {facts.name: 0 for facts in fleet.facts}
        self._numbered = 0

    def silence(self, node: str) -> None:
        """No beat of the node arrives from now on; the first of several reasons counts."""
        self._silent_since.setdefault(node, self._clock())
        self._numbered = 0

    def heard(self, node: str) -> None:
        """The node's beats arrive again."""
        if self._silent_since.pop(node, None) is not None:
            self._numbered = 0

    def committed(self, records: Iterable[r.Record]) -> None:
        """A turn was published: jobs go back to where their new generations start, those that ended are forgotten."""
        for record in records:
            if isinstance(record, r.GenerationStarted):
                self._rewound[record.job] = (record.generation, record.restore_step)
            elif isinstance(record, r.JobEnded):
                self._rewound.pop(record.job, None)

    def stalled(self, late_ns: int) -> None:
        """The brain woke so much later than planned."""
        if late_ns >= STALL_TOLERANCE_NS:
            self._lags.note(late_ns, self._clock())
            self._vitals = replace(self._vitals, lag_ns=late_ns, lag_at_ns=self._clock())

    def appended(self, took_ns: int) -> None:
        """An append to the journal took so long."""
        if took_ns >= SLOW_APPEND_NS:
            self._vitals = replace(self._vitals, append_ns=took_ns, append_at_ns=self._clock())

    def waiting(self, events: int, limit: int) -> None:
        """So many events wait, of so many that may."""
        if events != self._vitals.inbox:
            self._vitals = replace(self._vitals, inbox=events, inbox_limit=limit)

    def last_beat_ns(self, size: int) -> np.ndarray:
        """See `core.softstate.SoftState`."""
        self._number(size)
        now_ns = self._clock()
        return np.where(self._silent[:size] == HEARD, now_ns, self._silent[:size])

    def trusted_since_ns(self) -> int:
        """See `core.softstate.SoftState`."""
        return self.trusted_ns

    def excused_ns(self, since_ns: np.ndarray) -> np.ndarray:
        """See `core.softstate.SoftState`."""
        return self._lags.excused_ns(since_ns)

    def vitals(self) -> Vitals:
        """See `core.softstate.SoftState`."""
        return self._vitals

    def step_time_ns(self, job_uid: str) -> int:
        """See `core.softstate.SoftState`."""
        return self._world.gangs.step_time_ns(job_uid)

    def progress(self, job_uid: str) -> tuple[int, int]:
        """See `core.softstate.SoftState`."""
        step, at_ns = self._world.gangs.told(job_uid)
        if at_ns < self._listens_since_ns and job_uid not in self._told:
            if not self._world.gangs.tells(job_uid):
                return 0, 0  # told to an earlier process, and nobody has repeated it
            self._told.add(job_uid)
        generation, restored = self._rewound.get(job_uid, (0, 0))
        if self._world.gangs.generation(job_uid) < generation:
            step = restored
        return step, at_ns + self._clock() - self._world.now_ns if at_ns else 0

    def step_times(self, job_uid: str) -> StepTimes:
        """See `core.softstate.SoftState`. In closed form all steps take the time of the present one."""
        step_ns = self.step_time_ns(job_uid)
        return StepTimes(self.progress(job_uid)[0], step_ns, 0, step_ns)

    def stand(self, effect_id: str, node: str, stacks: Stacks) -> None:
        """A node says where its ranks stand."""
        self._stacks.add(effect_id, node, stacks)

    def stacks(self, effect_id: str) -> Stacks:
        """See `core.softstate.SoftState`."""
        return self._stacks.of(effect_id)

    def copies(self, job_uid: str) -> Copies:
        """See `core.softstate.SoftState`. Asked of the agents that are there now; see `sim.copies`."""
        return held(self._world, self.fleet, job_uid)

    def node_progress_ns(self, job_uid: str, node: int) -> int:
        """See `core.softstate.SoftState`."""
        return self.progress(job_uid)[1]

    def slow_ranks(self, job_uid: str, ranks: int, parallel: Parallel, policy: StragglerPolicy) -> Standing | None:
        """See `core.softstate.SoftState`. Nobody tells phase times here."""
        return None

    def _number(self, size: int) -> None:
        if self._numbered == size and size:
            return
        fleet = self.fleet
        silent = np.full(size, HEARD, dtype=np.int64)
        for name, since_ns in self._silent_since.items():
            number = fleet.number(name)
            if number is not None and number < size:
                silent[number] = since_ns
        self._silent, self._numbered = silent, size
