"""The ranks of a job as a gang: they come together, restore, and step in lock-step until one of them is missing.

A collective needs every rank of its generation, so each stage is reached by all at the same instant, and steps are a
closed form: so many since the first one, none from the moment on at which a rank is missing, hung or gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from controlplane.core.effects import Effect
from controlplane.core.jobs import Exit, host_id
from controlplane.core.spec import Parallel
from controlplane.core.state import State
from controlplane.core.units import seconds
from controlplane.core.vocabulary import RankState
from controlplane.sim.world.nodes import Process, SimNode

if TYPE_CHECKING:
    from controlplane.sim.world.site import World

JOINING, RENDEZVOUS, RESTORED, STEPPED = range(4)


@dataclass(eq=False)
class Gang:
    """One generation of one job as it really is. `moving`: it makes steps. `known`: newest (step, Unix ns) that was told."""

    job: str
    name: str
    generation: int
    ranks: int
    restore_id: str
    restore_step: int
    every_steps: int
    parallel: Parallel
    keeps_state: bool = False
    members: dict[int, Process] = field(default_factory=dict)
    broken: bool = False
    stage: int = JOINING
    moving: bool = False
    first_step: int = 0
    first_ns: int = 0
    step_ns: int = 0
    last_step: int = 0
    last_ns: int = 0
    known: tuple[int, int] = (0, 0)
    heard: bool = True

    def at(self, now_ns: int) -> tuple[int, int]:
        """(newest step, when it was made) by `now_ns`."""
        if not self.moving:
            return self.last_step, self.last_ns
        made = max(0, now_ns - self.first_ns) // self.step_ns
        return self.first_step + made, self.first_ns + made * self.step_ns

    def time_of(self, step: int) -> int:
        """When a step that lies ahead is made if nothing happens."""
        return self.first_ns + (step - self.first_step) * self.step_ns


class Gangs:
    """The newest gang of every job, and what happens to its ranks."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.newest: dict[str, Gang] = {}

    # -- what others ask --------------------------------------------------------------------------------------------

    def step(self, uid: str) -> int:
        """The newest step that a job has really made."""
        gang = self.newest.get(uid)
        return gang.at(self.world.now_ns)[0] if gang else 0

    def told(self, uid: str) -> tuple[int, int]:
        """(newest step that an agent could tell of, when it was made); (0, 0): none."""
        gang = self.newest.get(uid)
        if gang is None:
            return 0, 0
        if gang.heard and gang.moving:
            gang.known = gang.at(self.world.now_ns)
        return gang.known

    def find(self, job: str) -> Gang | None:
        """The newest gang of a job, by uid or by the name of its newest job."""
        return self.newest.get(job) or next((g for g in reversed(self.newest.values()) if g.name == job), None)

    def tells(self, uid: str) -> bool:
        """Whether ranks that have made a step in the newest generation are on a node whose agent talks."""
        gang = self.newest.get(uid)
        if gang is None or gang.stage < STEPPED:
            return False
        return any(self.world.nodes[process.node].talks for process in gang.members.values())

    def generation(self, uid: str) -> int:
        """Newest generation that ranks have heard of."""
        gang = self.newest.get(uid)
        return gang.generation if gang else 0

    def step_time_ns(self, uid: str) -> int:
        """How long a step of a job takes; 0: it has made none."""
        gang = self.newest.get(uid)
        return gang.step_ns if gang else 0

    def stepping(self) -> list[str]:
        """Jobs that make steps, and tell of them, until something happens to them (`core.due.due_ns`)."""
        return [gang.job for gang in self.newest.values() if gang.moving and gang.heard]

    def sight_changed(self) -> None:
        """A path broke or healed: steps are told by the agents of a job's nodes; what none of them can say is not known."""
        for gang in self.newest.values():
            self.told(gang.job)
            gang.heard = any(self.world.nodes[process.node].talks for process in gang.members.values())
            self.told(gang.job)

    # -- a generation comes together --------------------------------------------------------------------------------

    def assign(self, node: SimNode, effect: Effect, state: State) -> None:
        """The agent hands the ranks of a generation to processes of its node; those of newer generations stay."""
        job = state.jobs[effect.job]
        now_ns = self.world.now_ns
        joined = []
        for rank in np.flatnonzero(job.rank_node == state.fleet.number(node.name)).tolist():
            process = node.processes.get((job.uid, int(job.rank_host[rank])))
            if process is None or process.exit is not None or process.generation >= job.generation:
                continue
            process.rank, process.generation, process.times = rank, job.generation, [0, 0, 0, 0]
            process.devices = tuple(job.rank_acc[rank].tolist())
            if not process.obeys:
                continue
            process.state, process.since_ns, process.times[JOINING] = RankState.JOINING, now_ns, now_ns
            joined.append(process)
        if not joined:
            return
        self.world.agents.report(joined)
        gang = self._gang(effect, state)
        for process in joined:
            if process.generation == gang.generation:
                gang.members[process.rank] = process
        if len(gang.members) == gang.ranks and gang.generation == effect.generation:
            self.sight_changed()
            self.world.kernel.after(self.world.timings.rendezvous_s, lambda: self._rendezvous(gang))

    def _gang(self, effect: Effect, state: State) -> Gang:
        job = state.jobs[effect.job]
        known = self.newest.get(job.uid)
        if known is not None and known.generation >= job.generation:
            return known
        if known is not None:
            self._stop(known)
        gang = Gang(
            job.uid, job.name, job.generation, job.participants or job.spec.ranks, job.restore_id, job.restore_step,
            job.saves_every, job.spec.parallel, job.keeps_state,
        )  # fmt: skip
        if known is not None:
            gang.last_step, gang.last_ns = known.last_step, known.last_ns
            gang.known = (job.restore_step, known.known[1])
            gang.step_ns = known.step_ns
        self.newest[job.uid] = gang
        return gang

    def whole(self, gang: Gang) -> bool:
        """Whether every rank takes part: collectives need all of them."""
        return (
            not gang.broken
            and len(gang.members) == gang.ranks
            and self.newest.get(gang.job) is gang
            and all(process.works and process.generation == gang.generation for process in gang.members.values())
        )

    def _together(self, gang: Gang, stage: int) -> bool:
        if not self.whole(gang) or gang.stage != stage - 1:
            return False
        gang.stage = stage
        for process in gang.members.values():
            process.times[stage] = self.world.now_ns
        return True

    def _rendezvous(self, gang: Gang) -> None:
        if gang.name in self.world.jammed:
            self.world.kernel.after(self.world.timings.step_s, lambda: self._rendezvous(gang))
        elif self._together(gang, RENDEZVOUS):
            self._all_become(gang, RankState.RESTORING)
            self.world.kernel.after(self.world.stores.restore_s(gang), lambda: self._restored(gang))

    def _restored(self, gang: Gang) -> None:
        if not self.whole(gang):
            return
        bad = [] if gang.keeps_state else self.world.stores.bad_shards(gang)
        if bad:
            self.world.stores.restore_failed(gang, bad)
        elif self._together(gang, RESTORED):
            if not gang.keeps_state:
                self.world.has_read(gang)
            self.world.agents.report(gang.members.values())
            self.world.kernel.after(self.world.timings.first_step_s, lambda: self._first_step(gang))

    def _first_step(self, gang: Gang) -> None:
        if self._together(gang, STEPPED):
            gang.moving, gang.first_step, gang.first_ns = True, gang.restore_step + 1, self.world.now_ns
            gang.step_ns = self._step_ns(gang)
            gang.known = gang.at(self.world.now_ns) if gang.heard else gang.known
            self._all_become(gang, RankState.RUNNING)
            self.world.stores.plan_save(gang)

    def _step_ns(self, gang: Gang) -> int:
        """The slowest rank sets the pace of all."""
        slowest = max(self.world.nodes[process.node].slow for process in gang.members.values())
        return max(1, seconds(self.world.timings.step_s * slowest))

    def _all_become(self, gang: Gang, state: RankState) -> None:
        for process in gang.members.values():
            process.state, process.since_ns = state, self.world.now_ns
        self.world.agents.report(gang.members.values())

    # -- what breaks it ---------------------------------------------------------------------------------------------

    def ended(self, process: Process) -> None:
        """A process is no more, or does nothing any more: from now on its gang makes no step."""
        gang = self.newest.get(process.job)
        if gang is not None and gang.members.get(process.rank) is process and process.generation == gang.generation:
            self._stop(gang)

    def device_failed(self, node: SimNode, position: int) -> None:
        """The process that computes on a device gets no answer from it any more, and its peers none from the process."""
        for process in node.live():
            if process.generation and position in process.devices:
                process.obeys = False
                self.ended(process)
                self.peers_pause(process)

    def cut_apart(self, nodes: Iterable[SimNode]) -> None:
        """Nothing gets across between these machines and the others: gangs on both sides break and pause."""
        inside = {node.name for node in nodes}
        for gang in list(self.newest.values()):
            homes = {process.node for process in gang.members.values() if process.works}
            if homes & inside and homes - inside and not gang.broken:
                self._stop(gang)
                self.world.kernel.after(self.world.timings.notice_s, partial(self._pause, gang))
                lost = partial(self.world.agents.links_broke, sorted(homes - inside), homes & inside)
                self.world.kernel.after(self.world.timings.notice_s, lost)

    def _stop(self, gang: Gang) -> None:
        self.told(gang.job)
        gang.last_step, gang.last_ns = gang.at(self.world.now_ns)
        gang.moving, gang.broken = False, True
        self.world.soft_changed()

    def pace_changed(self) -> None:
        """A node became slow or fast: steps from now on take another time."""
        for gang in self.newest.values():
            if gang.moving:
                gang.first_step, gang.first_ns = gang.at(self.world.now_ns)
                gang.step_ns = self._step_ns(gang)

    def peers_pause(self, process: Process) -> None:
        """The ranks that work with a lost one notice its broken connections, and say that they cannot go on."""
        gang = self.newest.get(process.job)
        if gang is not None and gang.generation == process.generation:
            self.world.kernel.after(self.world.timings.notice_s, lambda: self._pause(gang))

    def flap(self, uid: str) -> None:
        """A link flaps: a collective fails, every rank keeps its process and its state, and waits for the others."""
        gang = self.newest.get(uid)
        if gang is not None and gang.moving:
            self._stop(gang)
            self.world.kernel.after(self.world.timings.notice_s, lambda: self._pause(gang))

    def _pause(self, gang: Gang) -> None:
        now_ns = self.world.now_ns
        paused = [
            process
            for process in gang.members.values()
            if process.works and process.state is RankState.RUNNING and process.generation == gang.generation
        ]
        for process in paused:
            process.state, process.since_ns = RankState.PAUSED, now_ns
        self.world.agents.report(paused)

    # -- processes that hold no rank yet ----------------------------------------------------------------------------

    def started(self, processes: Iterable[Process]) -> None:
        """Processes were started together; they park when imports and device contexts are done."""
        coming = list(processes)
        self.world.agents.report(coming)
        self.world.kernel.after(self.world.park_s(), lambda: self._park(coming))

    def _park(self, processes: list[Process]) -> None:
        ready = []
        for process in processes:
            node = self.world.nodes[process.node]
            here = node.processes.get((process.job, process.serial)) is process
            if process.node in self.world.stuck:
                process.obeys = False
            if not here or process.exit is not None or not process.obeys or process.generation:
                continue
            error = self.world.broken.get(self.world.name_of(process.job))
            if error is None:
                process.state, process.since_ns = RankState.PARKED, self.world.now_ns
                ready.append(process)
            else:
                self.world.agents.exit(process, Exit(observed=True, code=1, message=error, group_empty=True))
        self.world.agents.report(ready)

    @staticmethod
    def describe(process: Process) -> str:
        """A process in words."""
        return f"{host_id(process.job, process.serial)} of generation {process.generation}"
