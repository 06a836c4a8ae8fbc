"""The verdict on an incident, and carrying it out."""

from __future__ import annotations

import numpy as np

from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.draining import give_up_quarantined
from controlplane.core.evidence import Facts, Reason
from controlplane.core.health.quarantine import readmitted_since
from controlplane.core.jobs import NONE, Job, LostRank, root_cause
from controlplane.core.orders import end_job, fence
from controlplane.core.placement.pool import lend
from controlplane.core.recovery import rules
from controlplane.core.recovery.decide import Verdict, decide
from controlplane.core.recovery.elastic import in_replicas
from controlplane.core.recovery.phase_times import PhaseTimes, measure
from controlplane.core.recovery.rules import rollback_limit
from controlplane.core.recovery.ruling import Circumstances
from controlplane.core.recovery.rungs import survivors
from controlplane.core.settling.following import evidence_ids, follow_rules
from controlplane.core.settling.placing import drop_replicas, move
from controlplane.core.settling.waiting import waits_for_copies, waits_for_the_fall, waits_to_see
from controlplane.core.settling.words import say
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
    lost = tuple(int(rank) for rank in np.flatnonzero(job.present & ~survivors(job)))
    since_ns = incident.detected_ns
    if waits_to_see(draft, job, lost, since_ns) or waits_for_the_fall(draft, job, since_ns):
        return
    if waits_for_copies(draft, job, since_ns):
        return
    at = circumstances(draft, job)
    _write_verdict(
        draft, job, decide(job, lend(draft.fleet, job, draft.state.active_jobs()), at, times(draft, job)), at
    )


def times(draft: Draft, job: Job) -> PhaseTimes:
    """What the site has learned of recoveries so far."""
    return measure(job, draft.state.jobs.values(), draft.policy.ladder)


def circumstances(draft: Draft, job: Job) -> Circumstances:
    """What the job's incident is judged against now."""
    incident = job.incident
    newest, told_ns = draft.soft.progress(job.uid)
    return Circumstances(
        now_ns=draft.now_ns,
        step=max(incident.step if incident else 0, newest),
        step_known=told_ns > 0 or incident is None or incident.step_known,
        offences=draft.state.offences,
        draw=draft.draw,
        readmitted=_root_readmitted(draft, job),
    )


def _root_readmitted(draft: Draft, job: Job) -> bool:
    root = root_cause(job.incident.lost) if job.incident else None
    node = rules.case_of(job, root, draft.state.offences, draft.now_ns).node
    return root is not None and node != NONE and readmitted_since(draft, node, root.fault_ns)


def ended_ranks(job: Job) -> tuple[LostRank, ...]:
    """Ranks that had already finished when another was lost: they must run again from the restore point."""
    hosts = job.hosts
    lost = []
    for row in np.flatnonzero((hosts.rank != NONE) & (hosts.state == RankState.EXITED)).tolist():
        rank = int(hosts.rank[row])
        text = f"rank {rank} had finished, but not the whole gang"
        since_ns = ms(int(hosts.since_ms[row]))
        told = Facts(Reason.FINISHED_EARLY)
        serial = int(hosts.serial[row])
        lost.append(LostRank(rank, serial, text, Blame.INFRASTRUCTURE, since_ns, text, True, facts=told))
    return tuple(sorted(lost, key=lambda entry: entry.rank))


def _write_verdict(draft: Draft, job: Job, verdict: Verdict, at: Circumstances) -> None:
    if (
        verdict.rung is Rung.SUSPEND
        and job.incident
        and job.incident.rung == Rung.SUSPEND
        and job.blocker == verdict.reason
    ):
        return
    choice, climbs = verdict.ruling.choice, verdict.rung not in (Rung.FAIL, Rung.SUSPEND)
    draft.write(
        r.RecoveryDecided(
            job.uid, verdict.rung, verdict.reason, verdict.ranks, verdict.blame, verdict.charged, at.step,
            verdict.not_before_ns, verdict.tried, verdict.budgets, verdict.evidence,
            rule=choice.rule if choice else "",
            rules=choice.tried if choice else (),
            evidence_ids=evidence_ids(job),
            offence=verdict.ruling.offence,
            backoff_ns=verdict.ruling.backoff_ns if climbs else 0,
            draw=at.draw if climbs and verdict.ruling.backoff_ns else 0.0,
            restore_limit=_limit(job, choice),
            deadline_ns=verdict.deadline_ns,
            warm=verdict.warm,
        )
    )  # fmt: skip
    follow_rules(draft, job, choice, due=verdict.ruling.due)
    match verdict.rung:
        case Rung.FAIL:
            end_job(draft, job, JobState.FAILED, verdict.reason, 0)
        case Rung.SUSPEND:
            say(draft, job, verdict.reason, JobState.SUSPENDED if job.state is JobState.RECOVERING else job.state)
        case _:
            if verdict.dropped:
                drop_replicas(draft, job, verdict.dropped)
            if verdict.moves:
                move(draft, job, verdict.moved, verdict.moves)
            if verdict.fence:
                _restart_survivors(draft, job, verdict)
            state = JobState.RECOVERING if job.state is JobState.SUSPENDED else job.state
            say(draft, job, "waits for processes", state)


def _limit(job: Job, choice: rules.Choice | None) -> int:
    """No newer step is restored: what the rule says, and never more than what stands."""
    limit = rollback_limit(job.checkpoints.values(), choice)
    return min(limit, job.restore_limit) if NONE not in (limit, job.restore_limit) else limit


def _restart_survivors(draft: Draft, job: Job, verdict: Verdict) -> None:
    """RESTART_JOB gives survivors up: they are fenced, and nothing starts before each is reported empty."""
    fence(draft, job, verdict.fence)
    given_up = np.isin(job.rank_host, verdict.fence) & ~in_replicas(job.spec, verdict.dropped)
    ranks = np.flatnonzero(given_up)
    draft.write(r.SurvivorsGivenUp(job.uid, tuple(int(rank) for rank in ranks)))


def resume(draft: Draft, job: Job) -> None:
    """A suspended job looks again; the same answer is not written twice."""
    if give_up_quarantined(draft, job):
        return
    at = circumstances(draft, job)
    verdict = decide(job, lend(draft.fleet, job, draft.state.active_jobs()), at, times(draft, job))
    if verdict.rung is not Rung.SUSPEND:
        _write_verdict(draft, job, verdict, at)
    else:
        say(draft, job, verdict.reason)
