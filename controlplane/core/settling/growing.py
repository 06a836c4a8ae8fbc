"""Replicas that had to leave come back when there is room, it pays, and the job has had some peace since it last changed.

Coming back costs every rank one restore: so it waits until processes are parked at the new places, and until little work
lies behind the newest checkpoint. It is nobody's failure and draws on no ledger.
"""

from __future__ import annotations

from controlplane.core import records as r
from controlplane.core.checkpoints import restore_point
from controlplane.core.draft import Draft
from controlplane.core.draining import missing_processes
from controlplane.core.jobs import Job
from controlplane.core.recovery.elastic import Growth, grow, replicas
from controlplane.core.recovery.ladder import Option, deadline_ns, loss, spans, step_s
from controlplane.core.recovery.phase_times import LadderPolicy, measure
from controlplane.core.settling.binding import request
from controlplane.core.settling.placing import move
from controlplane.core.units import NS_PER_S, ms
from controlplane.core.vocabulary import Blame, JobState, Rung


def come_back(draft: Draft, job: Job) -> str:
    """Take the next step of a running job towards all its replicas. Returns what it waits for; "" when all take part."""
    ladder = draft.policy.ladder
    if job.whole or job.state is not JobState.RUNNING or job.incident is not None:
        return ""
    waits = f"runs with {replicas(job)} of {job.spec.parallel.dp} replicas until there is room for the others and a checkpoint"
    since_ns = max(job.clock.announced_ns, draft.soft.trusted_since_ns())
    if draft.now_ns - since_ns < ms(ladder.grow_interval_ms):
        return waits
    plan = grow(job, draft.fleet)
    if plan is None:
        return waits
    missing = missing_processes(job, plan.moves.nodes)
    if missing:
        request(draft, job, missing)
    else:
        _decide(draft, job, plan)
    return waits


def _decide(draft: Draft, job: Job, plan: Growth) -> None:
    """Write the verdict down when what is gained until the next failure is more than what the change costs."""
    times = measure(job, draft.state.jobs.values(), draft.policy.ladder)
    newest, told_ns = draft.soft.progress(job.uid)
    step = max(job.restore_step, newest)
    point = restore_point(job.checkpoints.values(), job.restore_limit)
    redone_s = max(0, step - (point.step if point else 0)) * step_s(job, draft.now_ns, step, times)
    cost = loss(job, Rung.GROW, times, is_warm=True, redone_s=redone_s)
    gained = len(plan.ranks) * job.spec.accelerators_per_rank * _peace_s(job, draft.policy.ladder)
    if gained <= cost:
        return
    cause = f"there is room for replicas {spans(plan.replicas)} again"
    tried = (f"GROW: {cause}, gains {gained:,.0f} accelerator-s until the next failure for {cost:,.0f}",)
    option = Option(Rung.GROW, cause, loss=cost, warm=True, ranks=plan.ranks, moved=plan.ranks, moves=plan.moves)
    until_ns = deadline_ns(job, option, times, draft.now_ns)
    draft.write(r.RanksLost(job.uid, (), draft.now_ns, step, cause, told_ns > 0))
    draft.write(
        r.RecoveryDecided(
            job.uid, Rung.GROW, cause, plan.ranks, Blame.INFRASTRUCTURE, False, step, draft.now_ns, tried, (), (cause,),
            deadline_ns=until_ns, warm=True,
        )
    )  # fmt: skip
    move(draft, job, plan.ranks, plan.moves)


def _peace_s(job: Job, ladder: LadderPolicy) -> float:
    """Seconds until the job's next failure: as often as it has failed so far, else as policy assumes."""
    faults = {recovery.fault_ns for recovery in job.recoveries if recovery.rung != Rung.GROW}
    if len(faults) < ladder.samples:
        return ladder.failure_every_s
    return (max(faults) - job.submitted_ns) / NS_PER_S / len(faults)
