"""The checkers' own reading of the journal, folded in plain Python: one small function per record.

A second, independent implementation of what `core.apply` does, for the part that invariants need. What it does not know
it leaves out: a checker that needs more adds it here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from controlplane.core import records as r
from controlplane.core.ranges import Ranges
from controlplane.core.spec import JobSpec
from controlplane.core.vocabulary import CheckpointState, JobState, NodeLiveness, Rung
from controlplane.sim.checkers.lines import CheckpointLine, JobLine, NodeLine, Place

HEALTH = "health"
"""Owner of the reason that a quarantine is."""

RULES = "rules"
"""Owner of the reasons that node rules give; an operator takes them back."""

NOBODY = -1
"""Serial of a rank's process before it has had one."""

NOWHERE: Place = (-1, ())
"""Place of a rank that takes part no more."""

Arm = TypeVar("Arm", bound=Callable[..., None])

_ARMS: dict[type[Any], Callable[[Book, Any], None]] = {}


class Book:
    """What the journal says, up to `revision`. `present`: accelerators that the site has; `device_ns`: time x those."""

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
        self.present = 0

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
            self.device_ns += elapsed * self.present
            for job in self.active():
                held = elapsed * job.devices
                job.held_ns += held
                if job.state is JobState.RUNNING:
                    job.running_ns += held
        self.at_ns = max(self.at_ns, at_ns)


def numbers(ranges: Ranges) -> list[int]:
    """The numbers that runs `(first, count)` stand for, in their order."""
    return [number for first, count in ranges for number in range(first, first + count)]


def _places(nodes: tuple[int, ...], positions: tuple[int, ...]) -> list[Place]:
    """Places from a record's flat columns: the same number of positions for every rank."""
    width = len(positions) // len(nodes) if nodes else 0
    return [(node, tuple(positions[i * width : (i + 1) * width])) for i, node in enumerate(nodes)]


def _reads(record_type: type[Any]) -> Callable[[Arm], Arm]:
    """Registers how a type of record is read."""

    def add(arm: Arm) -> Arm:
        _ARMS[record_type] = arm
        return arm

    return add


@_reads(r.ControllerStarted)
def _started(book: Book, record: r.ControllerStarted) -> None:
    book.epoch = record.epoch
    for node in book.nodes:
        node.session = False


@_reads(r.NodeRegistered)
def _registered(book: Book, record: r.NodeRegistered) -> None:
    if record.node not in book.numbers:
        book.numbers[record.node] = len(book.nodes)
        book.nodes.append(NodeLine(record.node, dict(record.labels)))
    line = book.node(record.node)
    line.boot_id = record.boot_id
    line.states = [int(state) for state in record.states]
    _count_devices(book)


@_reads(r.NodeSessionChanged)
def _session(book: Book, record: r.NodeSessionChanged) -> None:
    line = book.node(record.node)
    line.session, line.boot_id = record.open, record.boot_id


@_reads(r.LivenessChanged)
def _liveness(book: Book, record: r.LivenessChanged) -> None:
    for name in record.nodes:
        line = book.node(name)
        line.liveness, line.path_broken = record.liveness, record.path_broken
        if record.liveness is NodeLiveness.DEAD:
            line.session = False


@_reads(r.AcceleratorsChanged)
def _accelerators(book: Book, record: r.AcceleratorsChanged) -> None:
    line = book.node(record.node)
    for row in record.rows:
        if row.index < len(line.states):
            line.states[row.index] = int(row.state)
    _count_devices(book)


def _count_devices(book: Book) -> None:
    book.present = sum(node.devices for node in book.nodes)


@_reads(r.NodeCordoned)
def _cordoned(book: Book, record: r.NodeCordoned) -> None:
    book.node(record.node).cordons[record.owner] = record.drain


@_reads(r.NodeUncordoned)
def _uncordoned(book: Book, record: r.NodeUncordoned) -> None:
    book.node(record.node).cordons.pop(record.owner, None)


@_reads(r.NodeQuarantined)
def _quarantined(book: Book, record: r.NodeQuarantined) -> None:
    line = book.node(record.node)
    line.away, line.on_trial = record.reason, False
    line.cordons[HEALTH] = False


@_reads(r.ChecksFailed)
def _checks_failed(book: Book, record: r.ChecksFailed) -> None:
    line = book.node(record.node)
    line.away = f"its checks failed: {record.reason}"
    line.cordons[HEALTH] = False


@_reads(r.TrialStarted)
def _trial(book: Book, record: r.TrialStarted) -> None:
    line = book.node(record.node)
    line.away, line.on_trial = "", True
    line.cordons.pop(HEALTH, None)


@_reads(r.TrialPassed)
def _passed(book: Book, record: r.TrialPassed) -> None:
    book.node(record.node).on_trial = False


@_reads(r.NodeReleased)
def _released(book: Book, record: r.NodeReleased) -> None:
    line = book.node(record.node)
    line.away, line.on_trial = "", False
    line.cordons.pop(HEALTH, None)


@_reads(r.CellMembershipChanged)
def _membership(book: Book, record: r.CellMembershipChanged) -> None:
    for names, member in ((record.joined, True), (record.left, False)):
        for name in names:
            if name in book.numbers:
                book.node(name).member = member


@_reads(r.JobSubmitted)
def _submitted(book: Book, record: r.JobSubmitted) -> None:
    book.jobs[record.uid] = JobLine(record.uid, record.name, record.spec, book.at_ns)


@_reads(r.JobPlaced)
def _placed(book: Book, record: r.JobPlaced) -> None:
    job = book.jobs[record.job]
    job.places = _places(record.nodes, record.accelerators)
    job.hosts = [NOBODY] * len(job.places)
    job.spares, job.state = record.spares, JobState.PLACING


@_reads(r.JobUnplaced)
def _unplaced(book: Book, record: r.JobUnplaced) -> None:
    job = book.jobs[record.job]
    job.places, job.hosts, job.spares = [], [], ()
    job.state, job.blocker = JobState.QUEUED, record.reason


@_reads(r.RanksMoved)
def _moved(book: Book, record: r.RanksMoved) -> None:
    job = book.jobs[record.job]
    for rank, place in zip(record.ranks, _places(record.nodes, record.accelerators), strict=True):
        job.places[rank] = place


@_reads(r.ReplicasDropped)
def _dropped(book: Book, record: r.ReplicasDropped) -> None:
    job = book.jobs[record.job]
    for rank in range(len(job.places)):
        if _replica(job.spec, rank) in record.replicas:
            job.places[rank], job.hosts[rank] = NOWHERE, NOBODY


def _replica(spec: JobSpec, rank: int) -> int:
    """The dp coordinate of a rank: ranks count tp first, then cp, dp, and pp last."""
    return rank // (spec.parallel.tp * spec.parallel.cp) % max(1, spec.parallel.dp)


@_reads(r.SparesChanged)
def _spares(book: Book, record: r.SparesChanged) -> None:
    book.jobs[record.job].spares = record.nodes


@_reads(r.JobStateChanged)
def _job_state(book: Book, record: r.JobStateChanged) -> None:
    job = book.jobs[record.job]
    job.state, job.blocker = record.state, record.blocker


@_reads(r.HostsRequested)
def _requested(book: Book, record: r.HostsRequested) -> None:
    job = book.jobs[record.job]
    job.next_host = max(job.next_host, *(serial + 1 for serial in record.serials))


@_reads(r.RanksLost)
def _lost(book: Book, record: r.RanksLost) -> None:
    job = book.jobs[record.job]
    job.ruled = ""
    if job.state in (JobState.RUNNING, JobState.STARTING):
        job.state = JobState.RECOVERING


@_reads(r.RecoveryDecided)
def _decided(book: Book, record: r.RecoveryDecided) -> None:
    by_rule = record.rung is Rung.SUSPEND and record.rule.startswith("jobRules")
    book.jobs[record.job].ruled = record.rule if by_rule else ""


@_reads(r.GenerationStarted)
def _generation(book: Book, record: r.GenerationStarted) -> None:
    job = book.jobs[record.job]
    job.generation, job.blocker = record.generation, ""
    for rank, serial in zip(numbers(record.changed_ranks), numbers(record.hosts), strict=True):
        job.hosts[rank] = serial
    job.taking_part = job.taking_part_now
    if job.state is JobState.PLACING:
        job.state = JobState.STARTING


@_reads(r.GenerationReached)
def _reached(book: Book, record: r.GenerationReached) -> None:
    job = book.jobs[record.job]
    if record.phase == "first_step":
        job.blocker = ""
        if job.state in (JobState.STARTING, JobState.RECOVERING):
            job.state = JobState.RUNNING


@_reads(r.ShardsReported)
def _shards(book: Book, record: r.ShardsReported) -> None:
    job = book.jobs[record.job]
    fresh = CheckpointLine(record.checkpoint, record.generation, record.step, record.folder, job.taking_part)
    line = job.checkpoints.setdefault(record.checkpoint, fresh)
    line.shards.update((shard.rank, record.generation) for shard in record.shards)


@_reads(r.CheckpointCommitted)
def _committed(book: Book, record: r.CheckpointCommitted) -> None:
    _checkpoint(book, record.job, record.checkpoint, CheckpointState.COMMITTED)
    _doubt(book.jobs[record.job])


@_reads(r.CheckpointVerified)
def _verified(book: Book, record: r.CheckpointVerified) -> None:
    _checkpoint(book, record.job, record.checkpoint, CheckpointState.VERIFIED)


@_reads(r.CheckpointPoisoned)
def _poisoned(book: Book, record: r.CheckpointPoisoned) -> None:
    _checkpoint(book, record.job, record.checkpoint, CheckpointState.POISONED)


def _checkpoint(book: Book, job: str, name: str, state: CheckpointState) -> None:
    line = book.jobs[job].checkpoints.get(name)
    if line is not None:
        line.state, line.suspected = state, False


@_reads(r.CorruptionSuspected)
def _suspected(book: Book, record: r.CorruptionSuspected) -> None:
    job = book.jobs[record.job]
    first = min(record.first_step, job.doubt[0]) if job.doubt else record.first_step
    job.doubt = (first, record.generation)
    _doubt(job)


def _doubt(job: JobLine) -> None:
    for line in job.checkpoints.values():
        if job.doubt and line.restorable and line.step >= job.doubt[0] and line.generation <= job.doubt[1]:
            line.state, line.suspected = CheckpointState.POISONED, True


@_reads(r.CorruptionCleared)
def _cleared(book: Book, record: r.CorruptionCleared) -> None:
    job = book.jobs[record.job]
    job.doubt = None
    for line in job.checkpoints.values():
        if line.suspected:
            line.state, line.suspected = CheckpointState.COMMITTED, False


@_reads(r.CheckpointsExpired)
def _expired(book: Book, record: r.CheckpointsExpired) -> None:
    for name in record.checkpoints:
        book.jobs[record.job].checkpoints.pop(name, None)


@_reads(r.CheckpointPinned)
def _pinned(book: Book, record: r.CheckpointPinned) -> None:
    book.jobs[record.job].checkpoints[record.checkpoint].pins.add(record.owner)


@_reads(r.CheckpointUnpinned)
def _unpinned(book: Book, record: r.CheckpointUnpinned) -> None:
    book.jobs[record.job].checkpoints[record.checkpoint].pins.discard(record.owner)


@_reads(r.JobEnding)
def _ending(book: Book, record: r.JobEnding) -> None:
    book.jobs[record.job].ending = True


@_reads(r.JobEnded)
def _ended(book: Book, record: r.JobEnded) -> None:
    job = book.jobs[record.job]
    job.state, job.ended, job.end_reason, job.blocker = record.state, True, record.reason, ""
    job.spares = ()


@_reads(r.EffectsIssued)
def _effects_issued(book: Book, record: r.EffectsIssued) -> None:
    for effect in record.effects:
        book.issued[effect.id] = book.revision


@_reads(r.EffectsFinished)
def _effects_finished(book: Book, record: r.EffectsFinished) -> None:
    book.finished.update(record.ids)
