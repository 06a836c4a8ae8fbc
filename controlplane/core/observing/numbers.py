"""A job's numbers are off: loss or gradients are no numbers any more, or have jumped.

What is not finite ends the generation, whatever the job says: everything after it is made of it. A spike is noted once per
generation, and acted on where a rule of the job asks for it by its reason. The job goes back to before the first bad step;
batches of the bad steps are left out, because the same state and the same batches would give the same numbers, except where
a device of the job was ill: then it was not the batches. Checkpoints of those steps are poisoned.
"""

from __future__ import annotations

import numpy as np

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.draft import Draft, Refusal
from controlplane.core.evidence import Reason
from controlplane.core.health.numbers import KINDS, MOST_SKIPPED_STEPS, MOST_SKIPS, Skip
from controlplane.core.jobs import Job
from controlplane.core.observing.losses import lose_ranks
from controlplane.core.units import ms
from controlplane.core.vocabulary import Blame, JobState

COINCIDENT_MS = 600_000
"""A fault of a device this long before is believed to have made the numbers."""


def numbers_seen(draft: Draft, event: ev.NumbersSeen) -> None:
    """The edge has found numbers of a job's steps that are off."""
    job = draft.state.jobs.get(event.job)
    if (
        job is None
        or event.generation != job.generation
        or job.state is not JobState.RUNNING
        or job.incident is not None
    ):
        draft.reply = Refusal("stale", "OLD_GENERATION", f"generation {event.generation} of {event.job} does not run")
        return
    if event.kind not in KINDS or not job.restore_step < event.first_step <= event.last_step:
        draft.reply = Refusal("invalid", "BAD_NUMBERS", f"steps {event.first_step} to {event.last_step} were not made")
        return
    acts = event.kind is Reason.LOSS_NOT_FINITE or asked(job, event.kind)
    known = job.numbers.noted if job.numbers.noted_generation == job.generation else ()
    if not acts and event.kind in known:
        return
    fault = _device_fault(draft, job)
    blame = Blame.INFRASTRUCTURE if fault else Blame.USER
    length = event.last_step - event.first_step + 1
    room = len(job.numbers.skips) <= MOST_SKIPS
    skip = (
        Skip(event.first_step, event.last_step)
        if acts and not fault and room and length <= MOST_SKIPPED_STEPS
        else None
    )
    text = event.text + (f"; {fault}" if fault else "")
    draft.write(
        r.NumbersSuspected(
            job.uid, job.generation, event.kind, event.first_step, event.last_step, text, blame, acted=acts, skip=skip
        )
    )
    if not acts:
        return
    for checkpoint in job.checkpoints.values():
        if checkpoint.restorable and checkpoint.step >= event.first_step and checkpoint.generation <= job.generation:
            draft.write(r.CheckpointPoisoned(job.uid, checkpoint.id, f"written after {event.text}"))
    lose_ranks(draft, job, (), text, event.kind, since_ns=min(event.at_ns, draft.now_ns))


def asked(job: Job, kind: Reason) -> bool:
    """Whether a rule of the job says what is to be done about a kind."""
    return any(kind in rule.match.reasons for rule in job.spec.restart_policy.job_rules)


def _device_fault(draft: Draft, job: Job) -> str:
    """A fault on a node of the job that stands, or was seen lately, in words; "": none."""
    since_ns = draft.now_ns - ms(COINCIDENT_MS)
    for number in np.unique(job.rank_node[job.present]).tolist():
        node = draft.fleet.name(number)
        for fault in draft.state.health.on(node):
            if fault.note.entity.startswith("accelerator/") and fault.received_ns >= since_ns:
                return f"{fault.note.code} on {fault.note.entity} of {node} came shortly before"
    return ""
