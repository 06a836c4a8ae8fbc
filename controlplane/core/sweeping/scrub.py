"""The scrubber: verified checkpoints are read back anew now and then, slowly, so that rot is known before it matters."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from controlplane.core import records as r
from controlplane.core.checkpoints import Checkpoint, StoragePolicy
from controlplane.core.draft import Draft
from controlplane.core.effects import EffectKind
from controlplane.core.jobs import Job
from controlplane.core.state import State
from controlplane.core.units import ms
from controlplane.core.vocabulary import CheckpointState, NodeLiveness

RETRY_MS = 3_600_000
"""A reading that nobody answered is not begun again sooner."""
SLACK = 2
"""A reading may take so many times as long as it should at its rate, and the usual time of an effect."""
LONGEST_MS = 86_400_000


def scrub(draft: Draft) -> None:
    """Have the checkpoint that was read back longest ago read again, if it is due and nothing else is being read."""
    if not draft.policy.checkpoints.scrub_every_ms:
        return
    due = [found for found in due_at(draft.state, draft.policy.checkpoints) if found[0] <= draft.now_ns]
    if not due or any(effect.kind is EffectKind.VERIFY_CHECKPOINT for effect in draft.state.effects.values()):
        return
    _, job, checkpoint = min(due, key=lambda found: (found[0], found[2].id))
    node = _reader(draft, job)
    if node is None:
        return
    rate = draft.policy.checkpoints.scrub_mb_per_s
    size_mb = sum(file.bytes for file in checkpoint.files) / 1e6
    timeout_ms = min(LONGEST_MS, draft.policy.effect_ms + round(SLACK * size_mb / rate * 1_000))
    name = draft.fleet.name(node)
    draft.write(r.ScrubStarted(job.uid, checkpoint.id, name))
    items = (checkpoint.id, str(rate))
    draft.effect(EffectKind.VERIFY_CHECKPOINT, f"node:{name}", job=job.uid, items=items, timeout_ms=timeout_ms)


def due_at(state: State, policy: StoragePolicy) -> Iterator[tuple[int, Job, Checkpoint]]:
    """(Unix ns, job, checkpoint) for every verified checkpoint of a job that has not ended: when it is to be read back anew."""
    every_ns, retry_ns = ms(policy.scrub_every_ms), ms(min(policy.scrub_every_ms, RETRY_MS))
    for job in state.active_jobs():
        for checkpoint in job.checkpoints.values():
            if checkpoint.state is CheckpointState.VERIFIED:
                known_ns = checkpoint.verified_ns or checkpoint.committed_ns
                yield max(known_ns + every_ns, checkpoint.scrubbed_ns + retry_ns), job, checkpoint


def _reader(draft: Draft, job: Job) -> int | None:
    """A node that reads: one on which no rank works, if there is one, else one of the job's own."""
    fleet = draft.fleet
    able = fleet.session & (fleet.liveness == NodeLiveness.ALIVE)
    busy = np.zeros(fleet.size, dtype=np.bool_)
    for other in draft.state.active_jobs():
        busy[list(other.nodes())] = True
    idle = np.flatnonzero(able & ~busy)
    if len(idle):
        return int(idle[0])
    return next((node for node in job.nodes() if able[node]), None)
