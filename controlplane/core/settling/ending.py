"""The end of a job: nothing of it is left before it is said to have ended."""

from __future__ import annotations

import numpy as np

from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.jobs import NONE, Job
from controlplane.core.settling.upkeep import sweep
from controlplane.core.settling.words import say
from controlplane.core.vocabulary import CheckpointState, JobState, NodeLiveness, RankState


def all_finished(job: Job) -> bool:
    """Every rank still holds its process, and every one of them ended with the final marker (others lose their rank)."""
    if not job.placed or not job.generation:
        return False
    ended = job.hosts.state == RankState.EXITED
    return bool(ended.any()) and not job.unbound.any() and bool(ended[job.hosts.rank != NONE].all())


def finish_ending(draft: Draft, job: Job, target: JobState) -> None:
    """The job ends when the last of its processes is gone."""
    hosts = job.hosts
    dead = draft.fleet.liveness[hosts.node] == NodeLiveness.DEAD
    left = int(np.count_nonzero(~hosts.gone() & ~dead))
    if left == 0:
        draft.write(r.JobEnded(job.uid, target, job.end_reason))
        for other in draft.state.active_jobs():
            if other.uid != job.uid:
                draft.settle(other.uid)
        folders = _unreachable_folders(job)
        if folders:
            sweep(draft, job, folders)
        return
    say(draft, job, f"ending as {target.name}: its processes are being stopped")


def _unreachable_folders(job: Job) -> tuple[str, ...]:
    """Folders of checkpoints that were never completed."""
    return tuple(c.folder for c in job.checkpoints.values() if c.state is CheckpointState.WRITING)
