"""What node agents say of checkpoints."""

from __future__ import annotations

import numpy as np

from controlplane.core import events as ev
from controlplane.core import parting
from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.effects import EffectKind
from controlplane.core.evidence import Reason
from controlplane.core.observing.losses import lose_ranks
from controlplane.core.units import seconds
from controlplane.core.vocabulary import CheckpointState, SaveWord

TELL_AGAIN_NS = seconds(60)
"""Fifty thousand ranks that cannot save say so at once, and at every save: one of them is written down in so long."""


def takes_part(draft: Draft, uid: str, number: int) -> bool:
    """Whether a node has, or had in this generation, a rank or process of the job: others say nothing about its files."""
    job = draft.state.jobs.get(uid)
    return job is not None and bool((job.rank_node == number).any() or (job.hosts.node == number).any())


def holds(draft: Draft, uid: str, rank: int, number: int) -> bool:
    """Whether a rank is, or was, on a node: one node says nothing about the ranks of another."""
    job = draft.state.jobs.get(uid)
    return job is not None and bool(job.held_on(np.array([rank]), np.array([number]))[0])


def was_asked(draft: Draft, node: str, row: ev.CheckedRow) -> bool:
    """Whether a node that has no part in a job was asked to read its checkpoint back. Agents tell before they answer."""
    wanted = (EffectKind.VERIFY_CHECKPOINT, f"node:{node}", row.job, row.checkpoint)
    effects = draft.state.effects.values()
    return any((e.kind, e.target, e.job, *e.items[:1]) == wanted for e in effects)


def restore_failed(draft: Draft, row: ev.RestoreFailedRow) -> None:
    """A rank could not read its restore point: it is poisoned, and the job falls back."""
    job = draft.state.jobs.get(row.job)
    if job is None or job.terminal or row.generation != job.generation:
        return
    if not row.checkpoint and job.restored_from:
        text = f"rank {row.rank} could not start from memory: {row.file}: {row.reason}"
        lose_ranks(draft, job, (), text, Reason.RESTORE_FAILED)
        return
    checkpoint = job.checkpoints.get(row.checkpoint)
    reason = f"rank {row.rank} could not restore {row.file}: {row.reason}"
    if checkpoint and checkpoint.restorable and not _already_poisoned(draft, row.checkpoint):
        draft.write(r.CheckpointPoisoned(job.uid, row.checkpoint, reason))
        lose_ranks(draft, job, (), f"checkpoint {row.checkpoint} is damaged: {reason}", Reason.RESTORE_FAILED)


def _already_poisoned(draft: Draft, name: str) -> bool:
    return any(isinstance(record, r.CheckpointPoisoned) and record.checkpoint == name for record in draft.records)


def checked_row(draft: Draft, row: ev.CheckedRow) -> None:
    """A checkpoint was read back."""
    job = draft.state.jobs.get(row.job)
    checkpoint = job.checkpoints.get(row.checkpoint) if job else None
    if job is None or checkpoint is None or not checkpoint.restorable:
        return
    if not row.ok:
        draft.write(r.CheckpointPoisoned(job.uid, row.checkpoint, f"{row.file}: {row.reason}"))
    else:
        if checkpoint.state is CheckpointState.VERIFIED and not checkpoint.scrubbed_ns > checkpoint.verified_ns:
            return  # said again
        draft.write(r.CheckpointVerified(job.uid, row.checkpoint))
        draft.settle(job.uid)


def save_row(draft: Draft, row: ev.SaveRow) -> None:
    """A rank could not save as it should, or cannot save on request. Written down once, then once a minute."""
    job = draft.state.jobs.get(row.job)
    if job is None or job.terminal or row.generation != job.generation:
        return
    if row.word is SaveWord.UNABLE:
        unable(draft, row.job, row.generation, f"rank {row.rank}: {row.reason}")
        return
    known = job.save_trouble
    if known is None or draft.now_ns - known.told_ns >= TELL_AGAIN_NS:
        draft.write(r.SavesFailing(job.uid, row.generation, row.step, row.rank, row.word, row.reason))
    if row.word is SaveWord.FAILED and job.saving is not None and row.step > job.saving.from_step:
        parting.end(draft, job, f"not saved: rank {row.rank}: {row.reason}")


def unable(draft: Draft, uid: str, generation: int, reason: str) -> None:
    """Nobody will save before a planned stop, which goes on at once."""
    job = draft.state.jobs.get(uid)
    if job is not None and job.saving is not None and job.saving.generation == generation:
        parting.end(draft, job, f"not saved: {reason}")
