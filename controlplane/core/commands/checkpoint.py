"""Verify, pin, unpin, distrust checkpoints."""

from __future__ import annotations

from controlplane.core import events as ev
from controlplane.core import poison as doubt
from controlplane.core import records as r
from controlplane.core.audit import Change
from controlplane.core.checkpoints import MAX_PINS, Checkpoint
from controlplane.core.commands.job import find as find_job
from controlplane.core.draft import Accepted, Draft, Refusal
from controlplane.core.jobs import Job
from controlplane.core.orders import request_verification
from controlplane.core.vocabulary import CheckpointState


def _find(draft: Draft, job_name: str, name: str) -> tuple[Job, Checkpoint] | Refusal:
    job = find_job(draft, job_name)
    if isinstance(job, Refusal):
        return job
    checkpoint = job.checkpoints.get(name)
    if checkpoint is None:
        known = ", ".join(list(job.checkpoints)[-3:]) or "none"
        text = f"job {job.name} has no checkpoint {name} (newest: {known})"
        return Refusal("not_found", "NO_SUCH_CHECKPOINT", text)
    return job, checkpoint


def verify(draft: Draft, event: ev.VerifyCheckpoint) -> Accepted | Refusal:
    """Have a checkpoint read back."""
    found = _find(draft, event.job, event.checkpoint)
    if isinstance(found, Refusal):
        return found
    job, checkpoint = found
    if not request_verification(draft, job, checkpoint.id):
        text = "no node with an open session can read it back now: try again later"
        return Refusal("conflict", "NO_NODE", text)
    before = {"state": checkpoint.state.name}
    return Accepted(Change(f"checkpoint/{checkpoint.id}", before, {"verification": "requested"}))


def pin(draft: Draft, event: ev.PinCheckpoint) -> Accepted | Refusal:
    """Keep a checkpoint from retention, poisoned ones too: they are evidence, and are still never restored."""
    found = _find(draft, event.job, event.checkpoint)
    if isinstance(found, Refusal):
        return found
    job, checkpoint = found
    if checkpoint.state is CheckpointState.WRITING:
        text = f"checkpoint {checkpoint.id} is still being written: pin it once all ranks have reported"
        return Refusal("conflict", "NOT_COMMITTED", text)
    owners = {pin.owner: pin.reason for pin in checkpoint.pins}
    if event.owner not in owners and len(owners) >= MAX_PINS:
        text = f"checkpoint {checkpoint.id} has {MAX_PINS} pins, the limit: its owners are {', '.join(owners)}"
        return Refusal("conflict", "TOO_MANY_PINS", text)
    draft.write(r.CheckpointPinned(job.uid, checkpoint.id, event.owner, event.reason))
    after = {**owners, event.owner: event.reason}
    return Accepted(Change(f"checkpoint/{checkpoint.id}", {"pins": owners}, {"pins": after}))


def unpin(draft: Draft, event: ev.UnpinCheckpoint) -> Accepted | Refusal:
    """Remove one owner's pin; retention may delete the checkpoint at once if that was the last."""
    found = _find(draft, event.job, event.checkpoint)
    if isinstance(found, Refusal):
        return found
    job, checkpoint = found
    owners = {pin.owner: pin.reason for pin in checkpoint.pins}
    if event.owner not in owners:
        who = f"; its owners are {', '.join(owners)}" if owners else ""
        return Refusal("conflict", "NO_SUCH_PIN", f"checkpoint {checkpoint.id} has no pin of {event.owner}{who}")
    draft.write(r.CheckpointUnpinned(job.uid, checkpoint.id, event.owner))
    draft.settle(job.uid)
    after = {owner: reason for owner, reason in owners.items() if owner != event.owner}
    return Accepted(Change(f"checkpoint/{checkpoint.id}", {"pins": owners}, {"pins": after}))


def poison(draft: Draft, event: ev.PoisonCheckpoint) -> Accepted | Refusal:
    """Distrust a checkpoint and those after it. The job runs on; what it starts from next lies before them."""
    found = _find(draft, event.job, event.checkpoint)
    if isinstance(found, Refusal):
        return found
    job, checkpoint = found
    if not checkpoint.restorable:
        state = checkpoint.state.name
        return Refusal(
            "conflict", "NOT_RESTORABLE", f"checkpoint {checkpoint.id} is {state}: it is not restored anyway"
        )
    doubt.suspect_from(draft, job, checkpoint.step, draft.now_ns, event.reason)
    return Accepted(
        Change(
            f"checkpoint/{checkpoint.id}", {"state": checkpoint.state.name}, {"state": CheckpointState.POISONED.name}
        )
    )


def clear(draft: Draft, event: ev.ClearCheckpoints) -> Accepted | Refusal:
    """Trust a job's checkpoints again, each once it has been read back."""
    job = find_job(draft, event.job)
    if isinstance(job, Refusal):
        return job
    before = [c.id for c in job.checkpoints.values() if c.suspected]
    if not doubt.clear(draft, job, event.owner, event.reason):
        text = f"no checkpoint of job {job.name} is poisoned by suspicion alone: damaged ones stay poisoned"
        return Refusal("conflict", "NOT_SUSPECTED", text)
    return Accepted(Change(f"job/{job.uid}", {"suspected": before}, {"suspected": []}))
