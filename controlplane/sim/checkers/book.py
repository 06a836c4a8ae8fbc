"""The checkers' own reading of the journal: nodes, jobs, checkpoints and time, folded in plain Python.

A second, independent implementation of what `core.apply` does, for the part that invariants need. What it does not know
it leaves out: a checker that needs more adds it here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from controlplane.core import records as r
from controlplane.core.spec import JobSpec
from controlplane.core.vocabulary import CheckpointState, JobState, NodeLiveness

NOBODY = -1
"""Serial of a rank's process before it has had one."""

Place = tuple[int, tuple[int, ...]]
"""Node number and device positions of a rank."""


@dataclass(slots=True)
class NodeLine:
    """One node. `cordons`: owner -> whether it drains; `states`: of its devices by position, 0 where there is none."""

    name: str
    rack: str
    boot_id: str = ""
    session: bool = False
    member: bool = False
    liveness: NodeLiveness = NodeLiveness.ALIVE
    cordons: dict[str, bool] = field(default_factory=dict)
    states: list[int] = field(default_factory=list)

    @property
    def devices(self) -> int:
        """How many accelerators it has."""
        return sum(1 for state in self.states if state)


@dataclass(slots=True)
class CheckpointLine:
    """One checkpoint. `shards`: rank -> generation of the process that wrote it."""

    id: str
    generation: int
    step: int
    folder: str
    state: CheckpointState = CheckpointState.WRITING
    shards: dict[int, int] = field(default_factory=dict)
    pins: set[str] = field(default_factory=set)

    @property
    def restorable(self) -> bool:
        """Whether a generation may start from it."""
        return self.state in (CheckpointState.COMMITTED, CheckpointState.VERIFIED)


@dataclass(slots=True)
class JobLine:
    """One job. `places` and `hosts` by rank; `held_ns`: device-nanoseconds that it has held so far."""

    uid: str
    name: str
    spec: JobSpec
    submitted_ns: int
    state: JobState = JobState.QUEUED
    blocker: str = ""
    generation: int = 0
    places: list[Place] = field(default_factory=list)
    hosts: list[int] = field(default_factory=list)
    spares: tuple[int, ...] = ()
    next_host: int = 1
    checkpoints: dict[str, CheckpointLine] = field(default_factory=dict)
    held_ns: int = 0
    running_ns: int = 0
    ended: bool = False
    end_reason: str = ""

    @property
    def devices(self) -> int:
        """How many accelerators its ranks hold now."""
        return 0 if self.ended else sum(len(positions) for node, positions in self.places if node >= 0)


class Book:
    """What the journal says, up to `revision`."""

    def __init__(self) -> None:
        self.revision = 0
        self.at_ns = 0
        self.epoch = 0
        self.nodes: list[NodeLine] = []
        self.numbers: dict[str, int] = {}
        self.jobs: dict[str, JobLine] = {}
        self.issued: dict[str, int] = {}
        self.finished: set[str] = set()
        self.device_ns = 0
        self._devices = 0

    def fold(self, record: r.Record, revision: int, at_ns: int) -> None:
        """Read one record. Time passes first: what was held until now is booked."""
        self._pass_time(at_ns)
        self.revision = revision
        arm = _ARMS.get(type(record))
        if arm is not None:
            arm(self, record)

    def node(self, name: str) -> NodeLine:
        """The node of a name, which must have registered."""
        return self.nodes[self.numbers[name]]

    def active(self) -> list[JobLine]:
        """Jobs that have not ended."""
        return [job for job in self.jobs.values() if not job.ended]

    def _pass_time(self, at_ns: int) -> None:
        elapsed = at_ns - self.at_ns
        if self.at_ns and elapsed > 0:
            self.device_ns += elapsed * self._devices
            for job in self.active():
                held = elapsed * job.devices
                job.held_ns += held
                if job.state is JobState.RUNNING:
                    job.running_ns += held
        self.at_ns = max(self.at_ns, at_ns)

    # -- one arm per record -----------------------------------------------------------------------------------------

    def _started(self, record: r.ControllerStarted) -> None:
        self.epoch = record.epoch
        for node in self.nodes:
            node.session = False

    def _registered(self, record: r.NodeRegistered) -> None:
        if record.node not in self.numbers:
            self.numbers[record.node] = len(self.nodes)
            self.nodes.append(NodeLine(record.node, dict(record.labels).get("rack", "")))
        line = self.node(record.node)
        line.boot_id = record.boot_id
        line.states = [int(state) for state in record.states]
        self._count_devices()

    def _session(self, record: r.NodeSessionChanged) -> None:
        line = self.node(record.node)
        line.session, line.boot_id = record.open, record.boot_id

    def _liveness(self, record: r.LivenessChanged) -> None:
        for name in record.nodes:
            line = self.node(name)
            line.liveness = record.liveness
            if record.liveness is NodeLiveness.DEAD:
                line.session = False

    def _accelerators(self, record: r.AcceleratorsChanged) -> None:
        line = self.node(record.node)
        for row in record.rows:
            if row.index < len(line.states):
                line.states[row.index] = int(row.state)
        self._count_devices()

    def _count_devices(self) -> None:
        self._devices = sum(node.devices for node in self.nodes)

    def _cordoned(self, record: r.NodeCordoned) -> None:
        self.node(record.node).cordons[record.owner] = record.drain

    def _uncordoned(self, record: r.NodeUncordoned) -> None:
        self.node(record.node).cordons.pop(record.owner, None)

    def _membership(self, record: r.CellMembershipChanged) -> None:
        for names, member in ((record.joined, True), (record.left, False)):
            for name in names:
                if name in self.numbers:
                    self.node(name).member = member

    def _submitted(self, record: r.JobSubmitted) -> None:
        self.jobs[record.uid] = JobLine(record.uid, record.name, record.spec, self.at_ns)

    def _placed(self, record: r.JobPlaced) -> None:
        job = self.jobs[record.job]
        job.places = _places(record.nodes, record.accelerators)
        job.hosts = [NOBODY] * len(job.places)
        job.spares, job.state = record.spares, JobState.PLACING

    def _unplaced(self, record: r.JobUnplaced) -> None:
        job = self.jobs[record.job]
        job.places, job.hosts, job.spares = [], [], ()
        job.state, job.blocker = JobState.QUEUED, record.reason

    def _moved(self, record: r.RanksMoved) -> None:
        job = self.jobs[record.job]
        for rank, place in zip(record.ranks, _places(record.nodes, record.accelerators), strict=True):
            job.places[rank] = place

    def _spares(self, record: r.SparesChanged) -> None:
        self.jobs[record.job].spares = record.nodes

    def _job_state(self, record: r.JobStateChanged) -> None:
        job = self.jobs[record.job]
        job.state, job.blocker = record.state, record.blocker

    def _requested(self, record: r.HostsRequested) -> None:
        job = self.jobs[record.job]
        job.next_host = max(job.next_host, *(serial + 1 for serial in record.serials))

    def _lost(self, record: r.RanksLost) -> None:
        job = self.jobs[record.job]
        if job.state in (JobState.RUNNING, JobState.STARTING):
            job.state = JobState.RECOVERING

    def _generation(self, record: r.GenerationStarted) -> None:
        job = self.jobs[record.job]
        job.generation, job.hosts, job.blocker = record.generation, list(record.hosts), ""
        if job.state is JobState.PLACING:
            job.state = JobState.STARTING

    def _reached(self, record: r.GenerationReached) -> None:
        job = self.jobs[record.job]
        if record.phase == "first_step":
            job.blocker = ""
            if job.state in (JobState.STARTING, JobState.RECOVERING):
                job.state = JobState.RUNNING

    def _shard(self, record: r.ShardReported) -> None:
        known = self.jobs[record.job].checkpoints
        line = known.setdefault(
            record.checkpoint, CheckpointLine(record.checkpoint, record.generation, record.step, record.folder)
        )
        line.shards[record.shard.rank] = record.generation

    def _committed(self, record: r.CheckpointCommitted) -> None:
        self._checkpoint(record.job, record.checkpoint, CheckpointState.COMMITTED)

    def _verified(self, record: r.CheckpointVerified) -> None:
        self._checkpoint(record.job, record.checkpoint, CheckpointState.VERIFIED)

    def _poisoned(self, record: r.CheckpointPoisoned) -> None:
        self._checkpoint(record.job, record.checkpoint, CheckpointState.POISONED)

    def _checkpoint(self, job: str, name: str, state: CheckpointState) -> None:
        line = self.jobs[job].checkpoints.get(name)
        if line is not None:
            line.state = state

    def _expired(self, record: r.CheckpointsExpired) -> None:
        for name in record.checkpoints:
            self.jobs[record.job].checkpoints.pop(name, None)

    def _pinned(self, record: r.CheckpointPinned) -> None:
        self.jobs[record.job].checkpoints[record.checkpoint].pins.add(record.owner)

    def _unpinned(self, record: r.CheckpointUnpinned) -> None:
        self.jobs[record.job].checkpoints[record.checkpoint].pins.discard(record.owner)

    def _ended(self, record: r.JobEnded) -> None:
        job = self.jobs[record.job]
        job.state, job.ended, job.end_reason, job.blocker = record.state, True, record.reason, ""
        job.spares = ()

    def _effects_issued(self, record: r.EffectsIssued) -> None:
        for effect in record.effects:
            self.issued[effect.id] = self.revision

    def _effects_finished(self, record: r.EffectsFinished) -> None:
        self.finished.update(record.ids)


def _places(nodes: tuple[int, ...], positions: tuple[int, ...]) -> list[Place]:
    """Places from a record's flat columns: the same number of positions for every rank."""
    width = len(positions) // len(nodes) if nodes else 0
    return [(node, tuple(positions[i * width : (i + 1) * width])) for i, node in enumerate(nodes)]


_ARMS: dict[type[Any], Callable[[Book, Any], None]] = {
    r.ControllerStarted: Book._started,
    r.NodeRegistered: Book._registered,
    r.NodeSessionChanged: Book._session,
    r.LivenessChanged: Book._liveness,
    r.AcceleratorsChanged: Book._accelerators,
    r.NodeCordoned: Book._cordoned,
    r.NodeUncordoned: Book._uncordoned,
    r.CellMembershipChanged: Book._membership,
    r.JobSubmitted: Book._submitted,
    r.JobPlaced: Book._placed,
    r.JobUnplaced: Book._unplaced,
    r.RanksMoved: Book._moved,
    r.SparesChanged: Book._spares,
    r.JobStateChanged: Book._job_state,
    r.HostsRequested: Book._requested,
    r.RanksLost: Book._lost,
    r.GenerationStarted: Book._generation,
    r.GenerationReached: Book._reached,
    r.ShardReported: Book._shard,
    r.CheckpointCommitted: Book._committed,
    r.CheckpointVerified: Book._verified,
    r.CheckpointPoisoned: Book._poisoned,
    r.CheckpointsExpired: Book._expired,
    r.CheckpointPinned: Book._pinned,
    r.CheckpointUnpinned: Book._unpinned,
    r.JobEnded: Book._ended,
    r.EffectsIssued: Book._effects_issued,
    r.EffectsFinished: Book._effects_finished,
}
