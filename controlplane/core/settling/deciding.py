"""The verdict on an incident, and carrying it out."""

from __future__ import annotations

import numpy as np

from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.jobs import NONE, Job, LostRank
from controlplane.core.orders import end_job, fence
from controlplane.core.recovery.decide import Verdict, decide, survivors, unsure
from controlplane.core.settling.placing import move
from controlplane.core.settling.words import say, some
from controlplane.core.units import ms
from controlplane.core.vocabulary import Blame, JobState, RankState, Rung


def judge_incident(draft: Draft, job: Job) -> None:
    """Once everything that belongs to the incident is collected, write the verdict."""
    incident = job.incident
    if incident is None or draft.now_ns < incident.collect_until_ns:
        return
    finished = ended_ranks(job)
    if finished:
        draft.write(r.RanksLost(job.uid, finished, incident.collect_until_ns, incident.step, incident.cause))
        return
    lost = tuple(int(rank) for rank in np.flatnonzero(~survivors(job)))
    if waits_to_see(draft, job, lost, incident.detected_ns):
        return
    step = max(incident.step, draft.soft.progress(job.uid)[0])
    verdict = decide(job, draft.fleet, draft.now_ns, step)
    _write_verdict(draft, job, verdict, step)


def waits_to_see(draft: Draft, job: Job, ranks: tuple[int, ...], since_ns: int) -> bool:
    """Whether to wait a moment for nodes of `ranks` that we merely do not see whole; says so."""
    since_ns = max(since_ns, draft.soft.trusted_since_ns())
    if draft.now_ns >= since_ns + draft.excused_ns(since_ns) + ms(draft.policy.patience_ms):
        return False
    hidden = unsure(job, draft.fleet, ranks)
    if hidden:
        say(draft, job, f"waits to see {some([draft.fleet.name(node) for node in hidden])} whole again")
    return bool(hidden)


def ended_ranks(job: Job) -> tuple[LostRank, ...]:
    """Ranks that had already finished when another was lost: they must run again from the restore point."""
    hosts = job.hosts
    if not len(hosts.serial):
        return ()
    rows = hosts.rows(job.rank_host)
    lost = []
    for rank in np.flatnonzero((job.rank_host != NONE) & (hosts.state[rows] == RankState.EXITED)).tolist():
        text = f"rank {rank} had finished, but not the whole gang"
        since_ns = ms(int(hosts.since_ms[rows[rank]]))
        lost.append(LostRank(rank, int(job.rank_host[rank]), text, Blame.INFRASTRUCTURE, since_ns, text, True))
    return tuple(lost)


def _write_verdict(draft: Draft, job: Job, verdict: Verdict, step: int) -> None:
    if (
        verdict.rung is Rung.SUSPEND
        and job.incident
        and job.incident.rung == Rung.SUSPEND
        and job.blocker == verdict.reason
    ):
        return
    draft.write(
        r.RecoveryDecided(
            job.uid, verdict.rung, verdict.reason, verdict.ranks, verdict.blame, verdict.charged, step,
            verdict.not_before_ns, verdict.tried, verdict.budgets, verdict.evidence,
        )
    )  # fmt: skip
    match verdict.rung:
        case Rung.FAIL:
            end_job(draft, job, JobState.FAILED, verdict.reason, 0)
        case Rung.SUSPEND:
            say(draft, job, verdict.reason, JobState.SUSPENDED if job.state is JobState.RECOVERING else job.state)
        case Rung.ROLLBACK | Rung.RESTART_RANK | Rung.REPLACE_RANK | Rung.RESTART_JOB:
            if verdict.moves:
                move(draft, job, verdict.moved, verdict.moves)
            if verdict.fence:
                _restart_survivors(draft, job, verdict)
            state = JobState.RECOVERING if job.state is JobState.SUSPENDED else job.state
            say(draft, job, "waits for processes", state)


def _restart_survivors(draft: Draft, job: Job, verdict: Verdict) -> None:
    """RESTART_JOB gives survivors up: they are fenced, and nothing starts before each is reported empty."""
    fence(draft, job, verdict.fence)
    ranks = np.flatnonzero(np.isin(job.rank_host, verdict.fence))
    draft.write(r.SurvivorsGivenUp(job.uid, tuple(int(rank) for rank in ranks)))


def resume(draft: Draft, job: Job) -> None:
    """A suspended job looks again; the same answer is not written twice."""
    step = max(job.incident.step if job.incident else 0, draft.soft.progress(job.uid)[0])
    verdict = decide(job, draft.fleet, draft.now_ns, step)
    if verdict.rung is not Rung.SUSPEND:
        _write_verdict(draft, job, verdict, step)
    else:
        say(draft, job, verdict.reason)
