"""What node agents say of checkpoints."""

from __future__ import annotations

import numpy as np

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.effects import EffectKind
from controlplane.core.evidence import Reason
from controlplane.core.observing.losses import lose_ranks
from controlplane.core.vocabulary import CheckpointState


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
    wanted = (EffectKind.VERIFY_CHECKPOINT, f"node:{node}", row.job, (row.checkpoint,))
    effects = draft.state.effects.values()
    return any((effect.kind, effect.target, effect.job, effect.items) == wanted for effect in effects)


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
    elif checkpoint.state is CheckpointState.COMMITTED:
        draft.write(r.CheckpointVerified(job.uid, row.checkpoint))
        draft.settle(job.uid)
