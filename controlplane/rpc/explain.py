"""Why: a summary from the state, and which records of the journal make up the chain of decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from phalanx.v1 import event_pb2

from controlplane.core import records as r
from controlplane.core.accounting.ledger import ettr
from controlplane.core.draft import Refusal
from controlplane.core.fleet import FREE
from controlplane.core.health.quarantine import waits_for
from controlplane.core.jobs import NONE, Job, host_id, root_cause
from controlplane.core.state import State
from controlplane.core.vocabulary import Blame, CheckpointState, JobState, NodeLiveness, NodeService, RankState
from controlplane.core.why import Moment, checkpoint_changes, job_changes, node_changes, rank_changes
from controlplane.rpc import verdicts
from controlplane.rpc.errors import RequestRefused, refuse
from controlplane.rpc.narrate import ranks_text
from controlplane.rpc.progress import ProgressGate
from controlplane.rpc.views import step_of

CHAIN = 40
"""Links of a chain that are told."""
VERDICTS = 3
"""Verdicts of a job that are told with rules, budgets and evidence."""
READ = 400
"""Entries that are looked through for it."""
READ_VERDICTS = 400
"""Verdicts of a job that are looked through for those about one rank."""
READ_INCIDENTS = 2_000
"""Entries about incidents of all jobs that are looked through for those of one node."""
READ_CHECKPOINTS = 5_000
"""Entries about the checkpoints of a job that are looked through for those of one."""

_DECISIONS = (
    r.JobSubmitted, r.JobPlaced, r.RanksMoved, r.HostEnded, r.StartFailed, r.RanksLost, r.RecoveryDecided,
    r.SurvivorsGivenUp, r.NodeJudged, r.GenerationStarted, r.JoinFailed, r.JobStateChanged, r.CheckpointPoisoned, r.JobEnding,
    r.SaveEnded, r.SavesFailing, r.SavesRecovered,
    r.JobEnded, r.JobUnplaced, r.Audited, r.CorruptionSuspected, r.CorruptionCleared,
    r.RungFailed, r.ReplicasDropped, r.HangSuspected, r.HangJudged,
    r.NumbersSuspected,
)  # fmt: skip
_NODE_DECISIONS = (
    r.NodeRegistered, r.NodeSessionChanged, r.LivenessChanged, r.AcceleratorsChanged, r.NodeCordoned, r.NodeUncordoned,
    r.CellMembershipChanged, r.NodeDrained, r.NodeRetired, r.NodeJudged, r.Audited,
)  # fmt: skip
_CHECKPOINT_DECISIONS = (
    r.ShardsReported, r.CheckpointCommitted, r.CheckpointVerified, r.CheckpointPoisoned, r.CheckpointsExpired,
    r.ScrubStarted,
    r.GenerationStarted, r.CheckpointPinned, r.CheckpointUnpinned, r.Audited, r.CorruptionSuspected, r.CorruptionCleared,
)  # fmt: skip


_DECIDED = (r.RecoveryDecided.__name__, r.HangJudged.__name__)


def _tells_of_job(record: r.Record) -> bool:
    """Ends of processes that held no rank explain nothing about the job; `StartFailed` says what went wrong there. Of what
    operators did, commands to the job count; those to its checkpoints are told with the checkpoint."""
    if isinstance(record, r.Audited):
        return record.entry.subject.startswith("job/")
    return not (isinstance(record, r.HostEnded) and record.rank == NONE)


def _always(record: r.Record) -> bool:
    return True


def _no_verdicts(pairs: Sequence[verdicts.Pair], nodes: verdicts.Nodes) -> list[event_pb2.Decision]:
    return []


Changes = Callable[[r.RecoveryDecided | None], tuple[str, ...]]


def _nothing(verdict: r.RecoveryDecided | None) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Verdicts that are told at length: from the newest `limit` entries of these types (of one job; "": of all) `tell` makes
    them. `placed`: it has to know where processes ran."""

    types: tuple[str, ...] = ()
    job: str = ""
    limit: int = 0
    tell: verdicts.Tell = _no_verdicts
    placed: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """A summary, and what to read for the chain: entries of a job or node, of these types, for which `about` holds.
    `verdicts`: what is told at length; `changes`: what would have to change, given the job's newest verdict."""

    summary: str
    types: tuple[str, ...]
    job: str = ""
    node: str = ""
    about: Callable[[r.Record], bool] = _always
    limit: int = READ
    shown: int = CHAIN
    verdicts: Verdicts = field(default_factory=Verdicts)
    changes: Changes = _nothing


def explain(state: State, progress: ProgressGate, kind: int, name: str, now_ns: int = 0) -> Explanation:
    """The explanation of a subject at a time (Unix ns).

    Raises:
        RequestRefused: there is no such thing.
    """
    match kind:
        case event_pb2.SUBJECT_KIND_JOB:
            job = _job(state, name)
            summary = job_summary(state, job, step_of(job, progress.view(job.uid)))
            at = _moment(progress, job, now_ns)
            told = Verdicts(_DECIDED, job.uid, VERDICTS, verdicts.recoveries(_always, VERDICTS))
            return Explanation(
                summary, _names(_DECISIONS), job=job.uid, about=_tells_of_job, verdicts=told,
                changes=lambda verdict: job_changes(state, job, verdict, at),
            )  # fmt: skip
        case event_pb2.SUBJECT_KIND_NODE:
            summary, number = node_summary(state, name), state.fleet.index[name]
            told = Verdicts(
                _names(verdicts.INCIDENTS), "", READ_INCIDENTS, verdicts.on_node(number, VERDICTS), placed=True
            )
            changes = partial(_node_changes, state, number)
            return Explanation(summary, _names(_NODE_DECISIONS), node=name, verdicts=told, changes=changes)
        case event_pb2.SUBJECT_KIND_RANK:
            return _rank(state, progress, name, now_ns)
        case event_pb2.SUBJECT_KIND_CHECKPOINT:
            return _checkpoint(state, name)
        case _:
            text = f"kind {kind} is unknown: name job, node, rank or checkpoint"
            raise RequestRefused(Refusal("invalid", "INVALID_FIELD", text))


def _moment(progress: ProgressGate, job: Job, now_ns: int) -> Moment:
    return Moment(now_ns, step_of(job, progress.view(job.uid)))


def _node_changes(state: State, number: int, _verdict: r.RecoveryDecided | None) -> tuple[str, ...]:
    return node_changes(state, number)


def _names(kinds: Iterable[type[object]]) -> tuple[str, ...]:
    return r.type_names(kinds)


def _job(state: State, name: str) -> Job:
    job = state.job_named(name) or state.jobs.get(name)
    if job is None:
        refuse("not_found", "NO_SUCH_JOB", f"no job is named {name}: `phalanx get jobs` lists what there is")
    return job


def job_summary(state: State, job: Job, step: int) -> str:
    """State, reason, what it waits for, what last went wrong and what was done about it."""
    parts = [f"{job.name} is {job.state.name}"]
    if job.generation:
        parts[0] += f" in generation {job.generation} at step {step}"
    if job.terminal:
        parts.append(job.end_reason)
    elif job.ending:
        parts.append(f"it is ending as {job.ending.name}: {job.end_reason}")
    if job.blocker:
        parts.append(_waiting(job.blocker))
    if job.incident:
        root = root_cause(job.incident.lost)
        lost = ranks_text([entry.rank for entry in job.incident.lost]) if job.incident.lost else "no rank"
        verdict = f", {job.incident.rung} was decided" if job.incident.rung else ", not yet decided"
        parts.append(f"an incident is open: {root.cause if root else job.incident.cause} ({lost} lost{verdict})")
    elif job.recoveries:
        last = job.recoveries[-1]
        parts.append(
            f"its last recovery made generation {last.generation} by {last.rung} because {last.cause}, "
            f"{last.steps_lost} steps lost"
        )
    elif job.state is JobState.RUNNING:
        parts.append("nothing has gone wrong so far")
    charged = [f"{blame.value} {count}" for blame in Blame if (count := _charges(job, blame))]
    if charged:
        parts.append(f"restarts charged: {', '.join(charged)}")
    if job.ledger_ns:
        parts.append(f"productive share {ettr(job.ledger_ns):.3f}")
    return "; ".join(part for part in parts if part)


def _waiting(blocker: str) -> str:
    """A blocker as a sentence: many say themselves that something "waits for" something."""
    return f"it {blocker}" if blocker.startswith(("waits ", "backs off ")) else f"it waits: {blocker}"


def _charges(job: Job, blame: Blame) -> int:
    return sum(1 for restart in job.restarts if restart.blame is blame)


def node_summary(state: State, name: str) -> str:
    """What is witnessed of a node, and whether it takes work."""
    fleet = state.fleet
    number = fleet.number(name)
    if number is None:
        refuse("not_found", "NO_SUCH_NODE", f"no node is named {name}: `phalanx get nodes` lists them")
    facts = fleet.facts[number]
    takes = bool(fleet.schedulable()[number])
    why_not = [
        text
        for text, wrong in (
            (f"it is {NodeLiveness(int(fleet.liveness[number])).name}", fleet.liveness[number] != NodeLiveness.ALIVE),
            (f"it is {NodeService(int(fleet.service[number])).name}", not fleet.serving()[number]),
            ("its ranks prove that it lives, but the path to its agent is broken", bool(fleet.path_broken[number])),
            ("its agent has no session", not fleet.session[number]),
            ("it is no member of a cell", not fleet.cell_member[number]),
        )
        if wrong
    ] + [f"{cordon.owner} {'drains' if cordon.drain else 'cordoned'} it: {cordon.reason}" for cordon in facts.cordons]
    owners = set(fleet.acc_owner[number].tolist()) - {FREE}
    holds = [job.name for job in state.active_jobs() if job.serial in owners]
    spare = [job.name for job in state.active_jobs() if job.serial == int(fleet.reserved[number])]
    parts = [f"{name} {'takes' if takes else 'does not take'} new work"]
    parts += [", ".join(why_not)] if why_not else []
    stay = state.health.stays.get(name)
    if stay is not None:
        waits = waits_for(state.health, name, NodeService(int(fleet.service[number])))
        parts.append(f"health: {waits}, because {stay.reason}")
    parts += [f"{source.name} cannot be read: {source.reason}" for source in state.health.sources.get(name, ())]
    parts += [f"it holds ranks of {', '.join(holds)}"] if holds else []
    parts += [f"it is a warm spare of {', '.join(spare)}"] if spare else []
    return "; ".join(parts)


def _rank(state: State, progress: ProgressGate, name: str, now_ns: int) -> Explanation:
    job_name, _, number = name.rpartition("/")
    if not job_name or not number.isdecimal():
        refuse("invalid", "INVALID_FIELD", f"{name} is no rank: write job/rank, for example moe/3")
    job, rank = _job(state, job_name), int(number)
    if rank >= job.spec.ranks:
        text = f"job {job.name} has ranks 0 to {job.spec.ranks - 1}: there is no rank {rank}"
        refuse("not_found", "NO_SUCH_RANK", text)
    at = _moment(progress, job, now_ns)
    about = partial(_concerns, rank=rank)
    told = Verdicts(_DECIDED, job.uid, READ_VERDICTS, verdicts.recoveries(about, VERDICTS))
    return Explanation(
        rank_summary(state, job, rank), _names(_DECISIONS), job=job.uid, about=about, verdicts=told,
        changes=lambda verdict: rank_changes(state, job, rank, verdict, at),
    )  # fmt: skip


def rank_summary(state: State, job: Job, rank: int) -> str:
    """Where a rank is and what its process does."""
    if not job.placed:
        return f"rank {rank} of {job.name} has no place yet: {job.blocker or job.state.name}"
    if not job.present[rank]:
        return f"rank {rank} of {job.name} takes no part now, its replica has left: {job.blocker or job.state.name}"
    node = state.fleet.name(int(job.rank_node[rank]))
    devices = ", ".join(map(str, job.rank_acc[rank].tolist()))
    place = f"rank {rank} of {job.name} belongs on {node}, accelerators {devices}"
    serial = int(job.rank_host[rank])
    if serial == NONE:
        waits = f": {job.blocker}" if job.blocker else ""
        return f"{place}; it has no process now{waits}"
    row = job.hosts.row(serial)
    what = RankState(int(job.hosts.state[row])).name if row != NONE else "gone"
    return f"{place}; its process {host_id(job.uid, serial)} is {what} in generation {job.generation}"


def _concerns(record: r.Record, rank: int) -> bool:
    match record:
        case r.HostEnded():
            return record.rank == rank
        case r.HangJudged():
            return not record.ranks or rank in record.ranks
        case r.RanksLost():
            return not record.lost or any(entry.rank == rank for entry in record.lost)
        case r.RecoveryDecided():
            return not record.ranks or rank in record.ranks
        case r.RanksMoved() | r.SurvivorsGivenUp():
            return rank in record.ranks
        case r.GenerationStarted():
            return not record.changed_ranks or record.holder(rank) != NONE
        case r.JoinFailed():
            return rank in record.laggards
        case _:
            told = r.JobSubmitted | r.JobPlaced | r.JobUnplaced | r.JobEnding | r.JobEnded | r.Audited
            return isinstance(record, told) and _tells_of_job(record)


def _checkpoint(state: State, name: str) -> Explanation:
    uid = name.partition("/")[0]
    job = state.jobs.get(uid) or next((job for job in state.jobs.values() if name in job.checkpoints), None)
    if job is None:
        refuse(
            "not_found", "NO_SUCH_CHECKPOINT", f"no job has a checkpoint {name}: `phalanx get checkpoints` lists them"
        )

    checkpoint = job.checkpoints.get(name)
    if checkpoint is None:
        summary = f"checkpoint {name} is not kept any more"
    else:
        size = sum(file.bytes for file in checkpoint.files)
        summary = f"checkpoint {name} is {checkpoint.state.name}: {len(checkpoint.files)} files, {size} bytes"
        if checkpoint.state is CheckpointState.WRITING:
            summary += f", {len(checkpoint.shards)} of {checkpoint.participants or job.spec.ranks} ranks have reported"
        if checkpoint.pins:
            summary += "; pinned by " + ", ".join(f"{pin.owner} ({pin.reason})" for pin in checkpoint.pins)
        if checkpoint.reason:
            summary += f"; {checkpoint.reason}"
        if job.restore_id == name:
            summary += f"; generation {job.generation} of {job.name} started from it"
    keep = job.spec.checkpoint.keep
    told = Verdicts(
        _names(verdicts.ON_CHECKPOINTS), job.uid, READ_CHECKPOINTS, verdicts.on_checkpoint(name, keep, VERDICTS)
    )
    return Explanation(
        summary, _names(_CHECKPOINT_DECISIONS), job=job.uid, about=lambda record: verdicts.is_about(record, name),
        limit=READ_CHECKPOINTS, verdicts=told,
        changes=lambda _: checkpoint_changes(job, name),
    )  # fmt: skip
