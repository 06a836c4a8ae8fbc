"""Records about checkpoints into state."""

from __future__ import annotations

from dataclasses import replace

from controlplane.core import records as r
from controlplane.core.accounting.ledger import rebook
from controlplane.core.accounting.pace import saved
from controlplane.core.checkpoints import Checkpoint, Pin, SaveFirst, SaveTrouble, Suspicion
from controlplane.core.jobs import NONE
from controlplane.core.state import State
from controlplane.core.vocabulary import CHECKPOINT_STATES, Bucket, CheckpointState, IllegalTransition, JobState


def shards(state: State, record: r.ShardsReported) -> None:
    """Ranks have written their parts."""
    job = state.own_job(record.job)
    known = job.checkpoints.get(record.checkpoint) or Checkpoint(
        record.checkpoint, record.generation, record.step, record.folder, CheckpointState.WRITING,
        participants=job.participants,
    )  # fmt: skip
    job.checkpoints = {**job.checkpoints, record.checkpoint: known.with_shards(record.shards)}


def committed(state: State, record: r.CheckpointCommitted, at_ns: int) -> None:
    """Every part is there; what was productive until then is kept by a restore."""
    job = state.own_job(record.job)
    devices = state.tally().of(job)
    known = job.checkpoints[record.checkpoint]
    reached = known.reached_ns or at_ns
    stall = known.save_stall_ns
    job.pace, slow = saved(job.pace, known.generation, known.step, reached, stall)
    rebook(state.ledger, job, Bucket.PRODUCTIVE, Bucket.DEGRADED, slow * devices)
    running_since = max(reached, job.clock.running_ns) if job.state is JobState.RUNNING else at_ns
    productive = max(0, job.ledger_ns.get(Bucket.PRODUCTIVE, 0) - max(0, at_ns - running_since) * devices)
    rebook(state.ledger, job, Bucket.PRODUCTIVE, Bucket.CHECKPOINT_SAVE, stall * devices)
    job.checkpoints = {**job.checkpoints, known.id: replace(known, committed_ns=at_ns, productive_ns=productive)}
    checkpoint_state(state, record.job, record.checkpoint, CheckpointState.COMMITTED, "")
    if job.suspicion is not None and job.suspicion.covers(known):
        _poison_suspect(state, record.job, record.checkpoint, job.suspicion.reason)
    elif job.numbers.covers(known.generation, known.step):
        reason = f"written after step {job.numbers.first_step}, when the numbers were off"
        checkpoint_state(state, record.job, record.checkpoint, CheckpointState.POISONED, reason)


def numbers_suspected(state: State, record: r.NumbersSuspected) -> None:
    """Numbers are off: until the job runs again nothing of these steps is restored."""
    job = state.own_job(record.job)
    known = job.numbers
    if not record.acted:
        noted = known.noted if known.noted_generation == record.generation else ()
        job.numbers = replace(known, noted=(*noted, record.kind), noted_generation=record.generation)
        return
    skips = (*known.skips, record.skip) if record.skip is not None else known.skips
    job.numbers = replace(
        known, skips=skips, first_step=record.first_step, generation=record.generation, blame=record.blame
    )
    limit = record.first_step - 1
    job.restore_limit = limit if job.restore_limit == NONE else min(limit, job.restore_limit)


def checkpoint_state(state: State, uid: str, name: str, target: CheckpointState, reason: str) -> None:
    """Change the state of a checkpoint.

    Raises:
        IllegalTransition: the tables do not allow it.
    """
    job = state.own_job(uid)
    known = job.checkpoints[name]
    if known.state is target:
        return
    if target not in CHECKPOINT_STATES[known.state]:
        raise IllegalTransition(f"checkpoint {name}: {known.state.name} to {target.name}")
    job.checkpoints = {**job.checkpoints, name: replace(known, state=target, reason=reason, suspected=False)}


def verified(state: State, record: r.CheckpointVerified, at_ns: int) -> None:
    """Read back, for the first time or anew."""
    checkpoint_state(state, record.job, record.checkpoint, CheckpointState.VERIFIED, "")
    job = state.own_job(record.job)
    known = job.checkpoints[record.checkpoint]
    job.checkpoints = {**job.checkpoints, record.checkpoint: replace(known, verified_ns=at_ns)}


def scrub_started(state: State, record: r.ScrubStarted, at_ns: int) -> None:
    """A checkpoint is being read back anew."""
    job = state.own_job(record.job)
    known = job.checkpoints[record.checkpoint]
    job.checkpoints = {**job.checkpoints, record.checkpoint: replace(known, scrubbed_ns=at_ns)}


def saving(state: State, record: r.SaveAsked | r.SaveEnded | r.SavesFailing | r.SavesRecovered, at_ns: int) -> None:
    """Saves before a planned stop, and saves that do not come about."""
    job = state.own_job(record.job)
    match record:
        case r.SaveAsked():
            job.saving = SaveFirst(
                record.cause, record.generation, at_ns, record.until_ns, record.from_step, record.restart
            )
        case r.SaveEnded():
            if job.saving is not None:
                ended = replace(job.saving, ended_ns=at_ns, outcome=record.outcome)
                job.saving = None if record.dropped else ended
        case r.SavesFailing():
            known = job.save_trouble
            since_ns = known.since_ns if known is not None else at_ns
            job.save_trouble = SaveTrouble(record.step, record.rank, record.word, record.reason, since_ns, at_ns)
        case r.SavesRecovered():
            job.save_trouble = None


def suspected(state: State, record: r.CorruptionSuspected) -> None:
    """What was written since the first sign is POISONED; an earlier suspicion that is not cleared goes on with it."""
    job = state.own_job(record.job)
    doubt = Suspicion(record.since_ns, record.first_step, record.generation, record.reason, record.evidence)
    known = job.suspicion
    if known is not None and known.first_step < doubt.first_step:
        doubt = replace(known, generation=doubt.generation)
    job.suspicion = doubt
    for checkpoint in job.checkpoints.values():
        if checkpoint.restorable and doubt.covers(checkpoint):
            _poison_suspect(state, record.job, checkpoint.id, record.reason)


def _poison_suspect(state: State, uid: str, name: str, reason: str) -> None:
    checkpoint_state(state, uid, name, CheckpointState.POISONED, f"written under suspicion: {reason}")
    job = state.own_job(uid)
    job.checkpoints = {**job.checkpoints, name: replace(job.checkpoints[name], suspected=True)}


def cleared(state: State, record: r.CorruptionCleared) -> None:
    """Only what the suspicion had poisoned comes back, as COMMITTED: it is read back anew before it counts as VERIFIED."""
    job = state.own_job(record.job)
    job.suspicion = None
    for checkpoint in job.checkpoints.values():
        if checkpoint.suspected:
            checkpoint_state(state, record.job, checkpoint.id, CheckpointState.COMMITTED, "")


def pin(state: State, record: r.CheckpointPinned | r.CheckpointUnpinned, pins: tuple[Pin, ...]) -> None:
    """Replace an owner's pin, or remove it."""
    job = state.own_job(record.job)
    known = job.checkpoints[record.checkpoint]
    kept = tuple(pin for pin in known.pins if pin.owner != record.owner)
    job.checkpoints = {**job.checkpoints, known.id: replace(known, pins=(*kept, *pins))}


def expired(state: State, record: r.CheckpointsExpired) -> None:
    """Retention has let checkpoints go."""
    job = state.own_job(record.job)
    pinned = [name for name in record.checkpoints if name in job.checkpoints and job.checkpoints[name].pins]
    if pinned:
        raise IllegalTransition(f"retention of {job.name} would delete pinned checkpoints: {', '.join(pinned)}")
    job.checkpoints = {name: known for name, known in job.checkpoints.items() if name not in record.checkpoints}
