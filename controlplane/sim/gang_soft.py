"""Soft state of a gang in closed form, behind `core.softstate.SoftState`."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from controlplane.core.health.standstill import Stacks
from controlplane.core.health.stragglers import Standing, StragglerPolicy
from controlplane.core.recovery.restore_point import Copies, Tier
from controlplane.core.softstate import StepTimes
from controlplane.core.spec import Parallel
from controlplane.core.units import seconds
from controlplane.sim.ettr.conduct import Survivors
from controlplane.sim.kernel import START_NS
from controlplane.sim.prompt import PromptController

if TYPE_CHECKING:
    from controlplane.sim.gang import Gang


class GangSoft(PromptController):
    """Beats and steps in closed form: who talks has just beaten; steps follow from the time since the last start."""

    def __init__(self, gang: Gang) -> None:
        super().__init__(START_NS)
        self._gang = gang

    def last_beat_ns(self, size: int) -> np.ndarray:
        """See `core.softstate.SoftState`."""
        silent = self._gang.silent_ns[:size]
        return np.where(silent == 0, self._gang.kernel.now_ns, silent)

    def progress(self, job_uid: str) -> tuple[int, int]:
        """See `core.softstate.SoftState`."""
        return self._gang.last_step()

    def step_time_ns(self, job_uid: str) -> int:
        """See `core.softstate.SoftState`."""
        return seconds(self._gang.conduct.saving.step_s)

    def step_times(self, job_uid: str) -> StepTimes:
        """See `core.softstate.SoftState`. Nothing is learned: a hang takes the time that it takes without."""
        return StepTimes()

    def stacks(self, effect_id: str) -> Stacks:
        """See `core.softstate.SoftState`. Nobody is there to answer."""
        return Stacks.none()

    def copies(self, job_uid: str) -> Copies:
        """The newest saved step of every rank: by its own process, and by another node of the job that can be reached.

        Replicas hold the same state; where ranks end together, and where no node of the job is left, shared storage is told of
        as a node that lives.
        """
        gang = self._gang
        nodes = gang.job.rank_node
        step = gang.progress.saved(gang.kernel.now_ns)
        candidates = itertools.chain(gang.job.nodes(), range(gang.shape.size))
        reachable = (node for node in candidates if node not in gang.broken and gang.talks(node))
        there = list(itertools.islice(reachable, 2))
        if not step or not there:
            return Copies.none()
        keeps = gang.conduct.survivors is Survivors.KEEP
        other = np.where(nodes == there[0], there[-1], there[0])
        tiers = [Tier.SURVIVOR, Tier.MEMORY if keeps else Tier.LOCAL_DISK]
        alive = ~np.isin(nodes, list(gang.broken)) if keeps else np.zeros(len(nodes), dtype=np.bool_)
        return Copies(
            step=np.full((len(nodes), 2), step, dtype=np.int64),
            owner=np.stack([nodes, other], axis=1).astype(np.int32),
            tier=np.broadcast_to(np.array(tiers, dtype=np.uint8), (len(nodes), 2)),
            intact=np.stack([alive, np.ones(len(nodes), dtype=np.bool_)], axis=1),
        )

    def node_progress_ns(self, job_uid: str, node: int) -> int:
        """See `core.softstate.SoftState`."""
        return self._gang.last_step()[1]

    def slow_ranks(self, job_uid: str, ranks: int, parallel: Parallel, policy: StragglerPolicy) -> Standing | None:
        """See `core.softstate.SoftState`. Nobody tells phase times here."""
        return None
