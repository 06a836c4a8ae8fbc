"""Records about losses, verdicts and generations into state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from controlplane.core import records as r
from controlplane.core.accounting.ledger import rebook
from controlplane.core.applying.hosts import unbind
from controlplane.core.applying.jobs import set_job_state
from controlplane.core.columns import put
from controlplane.core.jobs import (
    NONE,
    GenerationClock,
    Incident,
    Job,
    LostRank,
    Recovery,
    Restart,
    phases_of,
    root_cause,
)
from controlplane.core.ranges import expand
from controlplane.core.recovery.line import longer
from controlplane.core.state import MAX_EVIDENCE, MAX_RECOVERIES, State
from controlplane.core.vocabulary import Blame, Bucket, IllegalTransition, JobState, Phase, Rung


def ranks_lost(state: State, record: r.RanksLost, at_ns: int) -> None:
    """An incident opens or widens."""
    job = state.own_job(record.job)
    if job.saving is not None and job.saving.ended_ns:
        job.saving = None
    fault_ns = min((lost.fault_ns for lost in record.lost), default=record.since_ns or at_ns)
    first_notice = job.incident is None
    if job.incident is None:
        job.failed_starts = 0
        job.incident = Incident(
            fault_ns, at_ns, record.collect_until_ns, record.lost, record.step, record.cause, step_known=record.step_known,
            why=record.why, released=record.released, records=(state.revision,),
            intact=record.intact,
        )  # fmt: skip
    else:
        overtaken = job.incident.decided_ns > 0
        if overtaken:
            job.recoveries = _keep(job.recoveries, _recovery(job, overtaken=True))
        # What was decided and charged is not judged again; what was only suspended still has to be.
        earlier = () if overtaken and job.incident.rung != Rung.SUSPEND else job.incident.lost
        known = {lost.rank for lost in earlier}
        added = tuple(lost for lost in record.lost if lost.rank not in known)
        job.incident = replace(
            job.incident,
            lost=(*earlier, *added),
            decided_ns=0,
            placed_ns=0,
            collect_until_ns=record.collect_until_ns,
            cause=record.cause if overtaken else job.incident.cause,
            step=max(job.incident.step, record.step),
            fault_ns=job.incident.fault_ns if not overtaken else fault_ns,
            detected_ns=job.incident.detected_ns if not overtaken else at_ns,
            step_known=job.incident.step_known or record.step_known,
            why=record.why if overtaken else job.incident.why,
            released=job.incident.released or record.released,
            records=(*job.incident.records, state.revision)[-MAX_EVIDENCE:],
            intact=job.incident.intact and record.intact,
        )
    if job.state is JobState.RUNNING and first_notice:
        delay = max(0, at_ns - fault_ns) * state.tally().of(job)
        rebook(state.ledger, job, Bucket.PRODUCTIVE, Bucket.DETECTION, delay)
    job.hang = None
    if job.state in (JobState.RUNNING, JobState.STARTING):
        set_job_state(job, JobState.RECOVERING)
    unbind(job, [lost.rank for lost in record.lost], [lost.serial for lost in record.lost])


def _keep(recoveries: tuple[Recovery, ...], new: Recovery) -> tuple[Recovery, ...]:
    return (*recoveries, new)[-MAX_RECOVERIES:]


def reblamed(state: State, record: r.IncidentReblamed) -> None:
    """Losses of the running incident turn out to be somebody else's fault."""
    job = state.own_job(record.job)
    if job.incident is None:
        return
    lost = tuple(
        replace(
            entry, blame=record.blame, cause=record.reason, facts=replace(entry.facts, fault_level=record.level)
        )
        if entry.rank in record.ranks
        else entry
        for entry in job.incident.lost
    )  # fmt: skip
    job.incident = replace(job.incident, lost=lost)


def decided(state: State, record: r.RecoveryDecided, at_ns: int) -> None:
    """The verdict on the incident stands, and is charged."""
    job = state.own_job(record.job)
    if record.charged:
        job.restarts = (*job.restarts, Restart(record.blame, at_ns, record.step))[-1024:]
    job.not_before_ns = record.not_before_ns
    if record.restore_limit != NONE:
        job.restore_limit = record.restore_limit
    if record.offence is not None:
        state.note_offence(record.offence)
    if job.incident:
        job.incident = replace(
            job.incident,
            decided_ns=at_ns,
            rung=record.rung,
            reason=record.reason,
            placed_ns=0,
            deadline_ns=record.deadline_ns,
            warm=record.warm,
            charged_generation=job.generation if record.charged else job.incident.charged_generation,
            ledger=record.blame,
        )


def rung_failed(state: State, uid: str, rung: str, nodes: tuple[int, ...]) -> None:
    """A rung is not tried again in this incident, nor are the nodes on which it failed; the incident is judged anew."""
    job = state.own_job(uid)
    incident = job.incident
    if incident is None:
        return
    spent = tuple(dict.fromkeys((*incident.spent_rungs, rung)))
    job.incident = replace(
        incident,
        spent_rungs=spent,
        spent_nodes=tuple(sorted({*incident.spent_nodes, *nodes})),
        decided_ns=0,
        placed_ns=0,
    )


def join_failed(state: State, record: r.JoinFailed) -> None:
    """A generation did not come to run."""
    job = state.own_job(record.job)
    if job.incident is None:
        return
    job.incident = replace(job.incident, attempts=job.incident.attempts + 1)
    if job.incident.rung:
        nodes = job.rank_node[list(record.laggards)]
        rung_failed(state, record.job, job.incident.rung, tuple(np.unique(nodes[nodes != NONE]).tolist()))


def generation(state: State, record: r.GenerationStarted, at_ns: int) -> None:
    """The next rank table counts."""
    job = state.own_job(record.job)
    if record.generation != job.next_generation:
        raise IllegalTransition(f"job {job.name}: generation {record.generation} after {job.generation}")
    hosts = job.hosts
    job.generation = record.generation
    changed, serials = expand(record.changed_ranks), expand(record.hosts)
    job.rank_host = put(job.rank_host, changed, serials)
    rank = put(hosts.rank, hosts.rows(serials), changed)
    job.hosts = replace(hosts, rank=rank, generation=np.where(rank != NONE, record.generation, hosts.generation))
    job.restore_id, job.restore_step = record.restore_id, record.restore_step
    job.line = longer(job.line, record.generation, record.restore_step)
    job.participants, job.keeps_state = record.participants, record.keeps_state
    job.restored_from = tuple((source.tier, source.ranks) for source in record.sources)
    job.changed_ranks = ()
    job.failed_starts = 0
    job.hang = None
    job.clock = GenerationClock(announced_ns=at_ns)
    job.rank_times = np.zeros_like(job.rank_times)
    job.blocker = ""
    if job.incident:
        job.incident = replace(job.incident, placed_ns=at_ns)
        if not record.keeps_state:
            _book_wasted(state, job, record.redone_ns)
    if job.state is JobState.PLACING:
        set_job_state(job, JobState.STARTING)


def _book_wasted(state: State, job: Job, redone_ns: int) -> None:
    """Steps after the restore point are lost: what was productive since then is WASTED_PROGRESS (S12 stays true)."""
    saved = [c for c in job.checkpoints.values() if c.committed_ns and c.step <= job.restore_step]
    known = job.checkpoints.get(job.restore_id) or max(saved, key=lambda c: c.step, default=None)
    lost = job.ledger_ns.get(Bucket.PRODUCTIVE, 0) - (known.productive_ns if known else 0)
    if redone_ns >= 0:
        lost = min(lost, redone_ns * state.tally().of(job))
    rebook(state.ledger, job, Bucket.PRODUCTIVE, Bucket.WASTED_PROGRESS, lost)


def reached(state: State, record: r.GenerationReached, at_ns: int) -> None:
    """All ranks of the generation have reached a phase; device-time since then belongs to what came after it."""
    job = state.own_job(record.job)
    before = job.bucket()
    _enter(job, record)
    late_ns = max(0, at_ns - max(record.at_ns, job.clock.announced_ns))
    rebook(state.ledger, job, before, job.bucket(), late_ns * state.tally().of(job))


def _enter(job: Job, record: r.GenerationReached) -> None:
    clock = job.clock
    match record.phase:
        case Phase.START:
            job.clock = replace(clock, joining_ns=record.at_ns)
        case Phase.RENDEZVOUS:
            job.clock = replace(clock, rendezvous_ns=record.at_ns)
        case Phase.RESTORE:
            job.clock = replace(clock, restored_ns=record.at_ns)
        case Phase.FIRST_STEP:
            job.clock = replace(clock, running_ns=record.at_ns)
            if job.incident:
                job.recoveries = _keep(job.recoveries, _recovery(job, overtaken=False))
                job.incident = None
            job.restore_limit = NONE
            if job.state in (JobState.STARTING, JobState.RECOVERING):
                set_job_state(job, JobState.RUNNING)
            job.blocker = ""
        case Phase.DETECT | Phase.DECIDE | Phase.PLACE:
            raise IllegalTransition(f"{record.phase} is not a phase that ranks report")


def _recovery(job: Job, *, overtaken: bool) -> Recovery:
    """The running incident as a finished account: consecutive differences of the moments that were reached."""
    incident = job.incident
    assert incident is not None
    first = root_cause(incident.lost)
    return Recovery(
        generation=job.generation,
        cause=first.cause if first else incident.cause,
        rung=incident.rung,
        ranks=tuple(sorted(lost.rank for lost in incident.lost)),
        steps_lost=max(0, incident.step - job.restore_step),
        restore_step=job.restore_step,
        restore_id=job.restore_id,
        phases_ns=phases_of(incident, job.clock),
        overtaken=overtaken,
        blame=_charged_to(first, incident.ledger),
        fault_ns=incident.fault_ns,
        warm=incident.warm,
        participants=job.participants,
        restored_from=job.restored_from if incident.placed_ns else (),
    )


def _charged_to(root: LostRank | None, ledger: str) -> str:
    """The restart ledger of a recovery, as rules may say otherwise than who is to blame; "" when an operator wanted it."""
    if root is not None and root.planned:
        return ""
    return ledger or (root.blame if root else Blame.INFRASTRUCTURE)
