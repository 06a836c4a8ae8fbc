"""Submit, cancel and restart jobs."""

from __future__ import annotations

import hashlib

import numpy as np

from controlplane.core import codec, parting
from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.audit import Change, canonical
from controlplane.core.checkpoints import restore_point
from controlplane.core.draft import Accepted, Draft, Refusal
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.jobs import NONE, Job
from controlplane.core.orders import end_job, stop_processes
from controlplane.core.placement.gang import Blocked, Placement, place
from controlplane.core.placement.queue import must_yield_to
from controlplane.core.spec import JobSpec, Violation
from controlplane.core.units import ms
from controlplane.core.vocabulary import JobState

OPERATOR_HINT = "`phalanx get jobs` lists what there is"


def find(draft: Draft, name: str) -> Job | Refusal:
    """The newest job of a name."""
    job = draft.state.job_named(name)
    return job or Refusal("not_found", "NO_SUCH_JOB", f"no job is named {name}: {OPERATOR_HINT}")


def submit(draft: Draft, event: ev.SubmitJob) -> Accepted | Refusal:
    """Store a job; a dry run answers the same and stores nothing."""
    spec = event.spec
    refusal = _unwelcome(draft, spec)
    if refusal is not None:
        return refusal
    inherited = _inherited(draft, spec.checkpoint.resume_from)
    if isinstance(inherited, Refusal):
        return inherited
    uid = f"{spec.name}-{draft.state.next_job}"
    fields = {"name": spec.name, "uid": uid}
    planned = _plan(draft, Job(spec.name, uid, draft.state.next_job, spec, JobState.QUEUED, draft.now_ns))
    if isinstance(planned, Blocked):
        fields["blocker"] = planned.reason
    else:
        fields["nodes"] = " ".join(map(str, planned.nodes))
        fields["accelerators"] = " ".join(map(str, planned.flat))
        fields["spares"] = " ".join(map(str, planned.spares))
    if event.dry_run:
        return Accepted(None, fields)
    draft.write(r.JobSubmitted(uid, spec.name, draft.state.next_job, spec, inherited))
    draft.settle(uid)
    digest = hashlib.sha256(canonical(codec.encode(spec)).encode()).hexdigest()
    return Accepted(Change(f"job/{uid}", {}, {"name": spec.name, "ranks": spec.ranks, "spec_sha256": digest}), fields)


def _inherited(draft: Draft, wanted: str) -> str | Refusal:
    """The checkpoint that `resumeFrom` means, "" when it is not set: one by its name, or the newest of a job."""
    if not wanted:
        return ""
    uid, _, tail = wanted.partition("/")
    origin = draft.state.jobs.get(uid) if tail else draft.state.job_named(wanted)
    known = () if origin is None else tuple(origin.checkpoints.values())
    found = restore_point(c for c in known if not tail or c.id == wanted)
    if found is not None and found.id.startswith(f"{origin.uid if origin else ''}/"):
        return found.id
    if origin is None:
        reason, fix = f"there is no job of {wanted}", OPERATOR_HINT
    elif found is not None:
        reason, fix = f"{found.id} is itself only resumed from", f"name {found.id}"
    else:
        named = next((c for c in known if c.id == wanted), None)
        state = f"{wanted} is {named.state.name}" if named else f"{origin.name} has no checkpoint that can be restored"
        reason, fix = state, f"`phalanx checkpoints ls {origin.name}` lists those that there are"
    text = f"spec.checkpoint.resumeFrom: {reason}: {fix}"
    return Refusal("invalid", "NO_SUCH_CHECKPOINT", text, (Violation("spec.checkpoint.resumeFrom", reason, fix),))


def _plan(draft: Draft, job: Job) -> Placement | Blocked:
    """Where a job that is submitted now would go."""
    placed = place(draft.fleet, job.spec)
    if isinstance(placed, Blocked):
        return placed
    patience_ns = ms(draft.policy.queue_patience_ms)
    first = must_yield_to(job, draft.state.active_jobs(), draft.fleet, draft.now_ns, patience_ns)
    return Blocked(f"waits for its turn behind {first.name}") if first else placed


def _unwelcome(draft: Draft, spec: JobSpec) -> Refusal | None:
    known = draft.state.job_named(spec.name)
    if known and not known.terminal:
        hint = f"choose another name, or `phalanx cancel {spec.name}` first"
        return Refusal(
            "conflict",
            "JOB_EXISTS",
            f"job {spec.name} exists and is {known.state.name}: {hint}",
            (Violation("metadata.name", f"{spec.name} is taken by a job that is {known.state.name}", hint),),
        )
    if len(draft.state.active_jobs()) >= draft.policy.max_active_jobs:
        text = f"{draft.policy.max_active_jobs} jobs are active, the limit: wait or cancel some"
        return Refusal("conflict", "TOO_MANY_JOBS", text)
    violations = capacity_violations(draft, spec)
    if violations:
        return Refusal("invalid", "DOES_NOT_FIT_SITE", "the job can never run on this site", violations)
    return None


def capacity_violations(draft: Draft, spec: JobSpec) -> tuple[Violation, ...]:
    """What can never fit this site, however long the job waits."""
    total = draft.fleet.total_accelerators()
    width = int((draft.fleet.acc_state != 0).sum(axis=1).max(initial=0))
    wanted = spec.ranks * spec.accelerators_per_rank
    found = []
    if wanted > total:
        reason = f"{spec.ranks} ranks need {wanted} accelerators, the site has {total}"
        found.append(Violation("spec.ranks", reason, f"ask for at most {total // spec.accelerators_per_rank} ranks"))
    elif spec.accelerators_per_rank > width:
        reason = f"a rank needs {spec.accelerators_per_rank} accelerators of one node, the widest node has {width}"
        found.append(Violation("spec.acceleratorsPerRank", reason, f"use at most {width}"))
    return tuple(found)


def cancel(draft: Draft, event: ev.CancelJob) -> Accepted | Refusal:
    """Stop a job; cancelled again with less grace, it is stopped sooner."""
    job = find(draft, event.name)
    if isinstance(job, Refusal):
        return job
    if job.terminal:
        message = f"job {job.name} has already ended ({job.state.name}): nothing to cancel"
        return Refusal("conflict", "JOB_ENDED", message)
    grace_ms = event.grace_ms or job.spec.timeouts.stop_ms
    before = {"state": job.state.name, "ending": job.ending.name if job.ending else ""}
    if job.ending is None:
        end_job(draft, job, JobState.CANCELLED, event.reason or "cancelled by an operator", grace_ms)
    else:
        _hurry(draft, job, grace_ms)
    after = {"ending": (job.ending or JobState.CANCELLED).name, "reason": event.reason, "grace_ms": grace_ms}
    return Accepted(Change(f"job/{job.uid}", before, after))


def _hurry(draft: Draft, job: Job, grace_ms: int) -> None:
    """Orders to stop that leave more time than `grace_ms` from now are given anew with less."""

    def kill_ns(effect: Effect) -> int:
        return effect.deadline_ns - ms(draft.policy.fence_ms)

    slow = tuple(
        effect.id
        for effect in draft.state.effects.values()
        if effect.job == job.uid
        and effect.kind is EffectKind.FENCE_HOSTS
        and kill_ns(effect) > draft.now_ns + ms(grace_ms)
    )
    if slow:
        draft.write(r.EffectsFinished(slow, ok=False, message="superseded: cancelled again with less grace"))
        stop_processes(draft, job, grace_ms)


def restart(draft: Draft, event: ev.RestartJob) -> Accepted | Refusal:
    """Every rank loses its process and starts again from the newest restore point, once the job has saved, if it can; charged to no
    ledger. Asked for again while it saves, it is not waited for. A job that has no room would only be stopped, and is refused that;
    one that is stopped already gives its nodes up until there is room."""
    job = find(draft, event.name)
    if isinstance(job, Refusal):
        return job
    if job.terminal:
        text = f"job {job.name} has already ended ({job.state.name}): submit it again instead"
        return Refusal("conflict", "JOB_ENDED", text)
    if job.ending is not None:
        return Refusal("conflict", "JOB_ENDING", f"job {job.name} is ending as {job.ending.name}: it cannot restart")
    if not job.generation:
        waits = f": {job.blocker}" if job.blocker else ""
        return Refusal("conflict", "NOT_STARTED", f"job {job.name} has not started yet ({job.state.name}{waits})")
    suspended = job.state is JobState.SUSPENDED
    stuck = "" if suspended else parting.without_place(draft, job)
    if stuck:
        return Refusal("conflict", "NO_ROOM", stuck)
    cause = f"restarted by an operator: {event.reason}" if event.reason else "restarted by an operator"
    before = {"state": job.state.name, "generation": job.generation}
    under_way = job.saving is not None and not job.saving.ended_ns and job.saving.restart
    if under_way:
        parting.end(draft, job, "not saved: asked for again at once")
    elif parting.ask(draft, job, cause, restart=True):
        held = int(np.count_nonzero(job.rank_host != NONE))
        after = {"restart": True, "ranks": held, "reason": event.reason, "saves_first": True}
        return Accepted(Change(f"job/{job.uid}", before, after))
    ranks = parting.restart_now(draft, job, cause)
    return Accepted(Change(f"job/{job.uid}", before, {"restart": True, "ranks": ranks, "reason": event.reason}))
