"""What many nodes tell at once: effects carried out, living processes by job, and stored shards by checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.checkpoints import Shard, checkpoint_id, is_inside, is_own_folder
from controlplane.core.draft import Draft
from controlplane.core.jobs import Job
from controlplane.core.observing.hosts import living
from controlplane.core.vocabulary import CheckpointState

MAX_SHARDS = 2_048
"""Shards of one record: with a few files each, an entry of the journal stays below a megabyte or two."""


def gathered(draft: Draft, event: ev.Gathered) -> None:
    """Judge the rows of many nodes, job by job."""
    if event.finished:
        draft.write(r.EffectsFinished(event.finished, ok=True, message=""))
    hosts: dict[str, list[tuple[int, ev.HostRow]]] = {}
    shards: dict[str, list[tuple[int, ev.ShardRow]]] = {}
    for told in event.rows:
        number = draft.fleet.index[told.node]
        for row in told.hosts:
            hosts.setdefault(row.job, []).append((number, row))
        for shard in told.shards:
            shards.setdefault(shard.job, []).append((number, shard))
    for uid, rows in hosts.items():
        living(draft, draft.state.jobs[uid], rows)
    for uid, parts in shards.items():
        job = draft.state.jobs.get(uid)
        if job is not None and not job.terminal:
            _shards(draft, job, parts)


def in_force(job: Job, generation: int) -> bool:
    """Whether shards of a generation count: only the current one's do (S3)."""
    return generation == job.generation


def _shards(draft: Draft, job: Job, told: Sequence[tuple[int, ev.ShardRow]]) -> None:
    """Shards by checkpoint; those of ranks that are not on the node that tells are nobody's."""
    ranks = np.array([row.rank for _, row in told], dtype=np.int64)
    held = job.held_on(ranks, np.array([number for number, _ in told], dtype=np.int32))
    saves: dict[tuple[int, int], list[ev.ShardRow]] = {}
    for (_, row), is_held in zip(told, held.tolist(), strict=True):
        if is_held and in_force(job, row.generation):
            saves.setdefault((row.generation, row.step), []).append(row)
    for (generation, step), rows in saves.items():
        _save(draft, job, generation, step, rows)


def _save(draft: Draft, job: Job, generation: int, step: int, rows: Sequence[ev.ShardRow]) -> None:
    """Shards of one checkpoint: repeats, late ones and those that lie elsewhere change nothing."""
    name = checkpoint_id(job.uid, generation, step)
    known = job.checkpoints.get(name)
    if known is not None and known.state is not CheckpointState.WRITING:
        return
    own = {folder for folder in {row.folder for row in rows} if is_own_folder(folder, name)}
    fresh: dict[int, Shard] = {}
    folder = known.folder if known is not None else ""
    for row in rows:
        repeated = row.rank in fresh or (known is not None and known.has(row.rank))
        if repeated or row.folder not in own or not all(is_inside(file.path) for file in row.files):
            continue
        folder = folder or row.folder
        fresh[row.rank] = Shard(row.rank, row.files, row.save_stall_ns, row.reached_ns)
    shards = tuple(fresh.values())
    for first in range(0, len(shards), MAX_SHARDS):
        part = shards[first : first + MAX_SHARDS]
        draft.write(r.ShardsReported(job.uid, name, generation, step, folder, part))
    if shards:
        draft.settle(job.uid)
