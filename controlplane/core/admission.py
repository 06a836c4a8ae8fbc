"""Commands of operators: checked against the state, answered once per request id, refused with the way out."""

from __future__ import annotations

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.draft import Answer, Draft, Refusal
from controlplane.core.effects import EffectKind
from controlplane.core.jobs import Job, host_id
from controlplane.core.placement.gang import Blocked, place
from controlplane.core.spec import JobSpec, Violation
from controlplane.core.vocabulary import JobState, NodeLiveness

OPERATOR_HINT = "`phalanx get jobs` lists what there is"


def command(draft: Draft, event: ev.Command) -> None:
    """Answer a command; a repeated request id gets its first answer again."""
    earlier = draft.state.answers.get(event.request_id) if event.request_id else None
    if earlier is not None:
        draft.reply = Answer(earlier)
        return
    match event:
        case ev.SubmitJob():
            _submit(draft, event)
        case ev.CancelJob():
            _cancel(draft, event)
        case ev.CordonNode():
            _cordon(draft, event)
        case ev.UncordonNode():
            _uncordon(draft, event)
        case ev.InjectFault():
            _inject(draft, event)
        case ev.VerifyCheckpoint():
            _verify(draft, event)
    dry = isinstance(event, ev.SubmitJob) and event.dry_run
    if isinstance(draft.reply, Answer) and event.request_id and not dry:
        draft.write(r.RequestAnswered(event.request_id, draft.reply.fields))


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


def _submit(draft: Draft, event: ev.SubmitJob) -> None:
    spec = event.spec
    known = draft.state.job_named(spec.name)
    if known and not known.terminal:
        draft.reply = Refusal(
            "conflict",
            "JOB_EXISTS",
            f"job {spec.name} exists and is {known.state.name}: choose another name, or `phalanx cancel {spec.name}` first",
            (Violation("metadata.name", f"{spec.name} is taken by a job that is {known.state.name}", "rename"),),
        )
        return
    if len(draft.state.active_jobs()) >= draft.policy.max_active_jobs:
        draft.reply = Refusal(
            "conflict",
            "TOO_MANY_JOBS",
            f"{draft.policy.max_active_jobs} jobs are active, the limit: wait or cancel some",
        )
        return
    violations = capacity_violations(draft, spec)
    if violations:
        draft.reply = Refusal("invalid", "DOES_NOT_FIT_SITE", "the job can never run on this site", violations)
        return
    uid = f"{spec.name}-{draft.state.next_job}"
    planned = place(draft.fleet, spec)
    fields = {"name": spec.name, "uid": uid}
    if isinstance(planned, Blocked):
        fields["blocker"] = planned.reason
    else:
        fields["nodes"] = " ".join(map(str, planned.nodes))
        fields["accelerators"] = " ".join(map(str, planned.flat))
        fields["spares"] = " ".join(map(str, planned.spares))
    draft.reply = Answer(fields)
    if event.dry_run:
        return
    draft.write(r.JobSubmitted(uid, spec.name, draft.state.next_job, spec))
    draft.settle(uid)


def _job(draft: Draft, name: str) -> Job | None:
    job = draft.state.job_named(name)
    if job is None:
        draft.reply = Refusal("not_found", "NO_SUCH_JOB", f"no job is named {name}: {OPERATOR_HINT}")
    return job


def _cancel(draft: Draft, event: ev.CancelJob) -> None:
    job = _job(draft, event.name)
    if job is None:
        return
    if job.terminal:
        message = f"job {job.name} has already ended ({job.state.name}): nothing to cancel"
        draft.reply = Refusal("conflict", "JOB_ENDED", message)
        return
    draft.reply = Answer()
    if job.ending is None:
        end_job(draft, job, JobState.CANCELLED, event.reason or "cancelled by an operator", job.spec.timeouts.stop_ms)


def end_job(draft: Draft, job: Job, state: JobState, reason: str, grace_ms: int) -> None:
    """Begin the end of a job: every process that may still run is asked to stop, then killed; nothing else is begun."""
    draft.write(r.JobEnding(job.uid, state, reason, job.result, max(job.restore_step, draft.soft.progress(job.uid)[0])))
    withdrawn = tuple(
        effect.id
        for effect in draft.state.effects.values()
        if effect.job == job.uid and effect.kind in (EffectKind.START_HOSTS, EffectKind.APPLY_GENERATION)
    )
    if withdrawn:
        draft.write(r.EffectsFinished(withdrawn, ok=False, message="the job is ending", expired=True))
    by_node: dict[int, list[str]] = {}
    hosts = job.hosts
    left = ~hosts.gone() & (draft.fleet.liveness[hosts.node] != NodeLiveness.DEAD)
    for serial, node in zip(hosts.serial[left].tolist(), hosts.node[left].tolist(), strict=True):
        by_node.setdefault(node, []).append(host_id(job.uid, serial))
    for node, names in by_node.items():
        target = f"node:{draft.fleet.name(node)}"
        draft.effect(EffectKind.FENCE_HOSTS, target, job=job.uid, items=tuple(names), grace_ms=grace_ms)
    draft.settle(job.uid)


def _node(draft: Draft, name: str) -> int | None:
    number = draft.fleet.number(name)
    if number is None:
        known = ", ".join(sorted(draft.fleet.index)[:5]) or "none"
        text = f"no node is named {name} (known: {known}...): `phalanx get nodes` lists them"
        draft.reply = Refusal("not_found", "NO_SUCH_NODE", text)
    return number


def _cordon(draft: Draft, event: ev.CordonNode) -> None:
    if _node(draft, event.node) is None:
        return
    draft.write(r.NodeCordoned(event.node, event.owner or "operator", event.reason))
    draft.reply = Answer()
    for job in draft.state.active_jobs():
        draft.settle(job.uid)


def _uncordon(draft: Draft, event: ev.UncordonNode) -> None:
    number = _node(draft, event.node)
    if number is None:
        return
    owner = event.owner or "operator"
    owners = [cordon.owner for cordon in draft.fleet.facts[number].cordons]
    if owner not in owners:
        text = f"{event.node} has no cordon of {owner}" + (f"; its owners are {', '.join(owners)}" if owners else "")
        draft.reply = Refusal("conflict", "NO_SUCH_CORDON", text)
        return
    draft.write(r.NodeUncordoned(event.node, owner))
    draft.reply = Answer()
    for job in draft.state.active_jobs():
        draft.settle(job.uid)


def _inject(draft: Draft, event: ev.InjectFault) -> None:
    number = _node(draft, event.node)
    if number is None:
        return
    devices = draft.fleet.facts[number].accelerators
    if event.accelerator >= len(devices):
        text = f"{event.node} has {len(devices)} accelerators, numbered from 0: there is no {event.accelerator}"
        draft.reply = Refusal("invalid", "NO_SUCH_ACCELERATOR", text)
        return
    if draft.fleet.liveness[number] == NodeLiveness.DEAD:
        draft.reply = Refusal("conflict", "NODE_DEAD", f"{event.node} is DEAD: nobody there can obey")
        return
    if devices[event.accelerator].vendor != "simulated":
        text = f"accelerator {event.accelerator} of {event.node} is real: faults are injected into simulated ones only"
        draft.reply = Refusal("invalid", "NOT_SIMULATED", text)
        return
    items = (str(event.accelerator), event.code, event.message)
    draft.effect(EffectKind.INJECT_FAULT, f"node:{event.node}", items=items)
    draft.reply = Answer()


def _verify(draft: Draft, event: ev.VerifyCheckpoint) -> None:
    job = _job(draft, event.job)
    if job is None:
        return
    checkpoint = job.checkpoints.get(event.checkpoint)
    if checkpoint is None:
        known = ", ".join(list(job.checkpoints)[-3:]) or "none"
        text = f"job {job.name} has no checkpoint {event.checkpoint} (newest: {known})"
        draft.reply = Refusal("not_found", "NO_SUCH_CHECKPOINT", text)
        return
    if not request_verification(draft, job, checkpoint.id):
        draft.reply = Refusal(
            "conflict", "NO_NODE", "no node with an open session can read it back now: try again later"
        )
        return
    draft.reply = Answer()


def request_verification(draft: Draft, job: Job, checkpoint: str) -> bool:
    """Ask one connected node, the job's own first, to read a checkpoint back."""
    candidates = [*job.nodes(), *range(draft.fleet.size)]
    node = next((n for n in candidates if draft.fleet.session[n]), None)
    if node is None:
        return False
    target = f"node:{draft.fleet.name(node)}"
    draft.effect(EffectKind.VERIFY_CHECKPOINT, target, job=job.uid, items=(checkpoint,))
    return True
