"""What a running job needs: phases written down, checkpoints kept, spares topped up, nodes left."""

from __future__ import annotations

import numpy as np

from controlplane.core import draining
from controlplane.core import records as r
from controlplane.core.checkpoints import expirable
from controlplane.core.draft import Draft
from controlplane.core.effects import EffectKind
from controlplane.core.jobs import NONE, Job
from controlplane.core.orders import outstanding, request_verification
from controlplane.core.placement.gang import refill_spares
from controlplane.core.placement.pool import before, share_of
from controlplane.core.settling.binding import request
from controlplane.core.settling.placing import give_up_parked
from controlplane.core.vocabulary import CheckpointState, JobState, Phase, RankState

PHASES = (Phase.START, Phase.RENDEZVOUS, Phase.RESTORE, Phase.FIRST_STEP)


def leave_nodes(draft: Draft, job: Job) -> str:
    """Take the next step of a running job off draining nodes. Returns what it waits for."""
    waits, missing = draining.plan(draft, job)
    if missing:
        request(draft, job, missing)
    return waits


def phases(draft: Draft, job: Job) -> None:
    """Write down when all ranks have reached a phase of the current generation."""
    clock = job.clock
    known = (clock.joining_ns, clock.rendezvous_ns, clock.restored_ns, clock.running_ns)
    for column, (phase, reached) in enumerate(zip(PHASES, known, strict=True)):
        if reached:
            continue
        if not job.rank_times[0, column] and job.rank_node[0] != NONE:
            return  # as most looks find
        times, present = job.rank_times[:, column], job.present
        if not ((times > 0) | ~present).all() or not present.any():
            return
        draft.write(r.GenerationReached(job.uid, job.generation, phase, int(times.max(where=present, initial=0))))
    carried_out = () if clock.running_ns else outstanding(draft, job, EffectKind.APPLY_GENERATION)
    if carried_out:
        draft.write(r.EffectsFinished(carried_out, ok=True, message=""))


def checkpoints(draft: Draft, job: Job) -> None:
    """Commit what is complete, have it read back, let retention delete what is old."""
    for checkpoint in job.checkpoints.values():
        if checkpoint.state is CheckpointState.WRITING and len(checkpoint.shards) == (
            checkpoint.participants or job.spec.ranks
        ):
            draft.write(r.CheckpointCommitted(job.uid, checkpoint.id, checkpoint.step))
            if job.save_trouble is not None and checkpoint.step >= job.save_trouble.step:
                draft.write(r.SavesRecovered(job.uid, checkpoint.step))
            request_verification(draft, job, checkpoint.id)
            return
    old = expirable(job.checkpoints.values(), job.spec.checkpoint.keep, job.restore_id)
    if old:
        draft.write(r.CheckpointsExpired(job.uid, old))
        sweep(draft, job, tuple(job.checkpoints[name].folder for name in old))


def sweep(draft: Draft, job: Job, folders: tuple[str, ...]) -> None:
    """Have folders of checkpoints deleted by a node that is connected."""
    node = next((n for n in [*job.nodes(), *range(draft.fleet.size)] if draft.fleet.session[n]), None)
    if node is not None:
        draft.effect(EffectKind.SWEEP_FOLDERS, f"node:{draft.fleet.name(node)}", job=job.uid, items=folders)


def top_up(draft: Draft, job: Job) -> None:
    """While the job runs, keep warm spare nodes reserved and parked processes ready where the policy wants them."""
    if job.state is not JobState.RUNNING:
        return
    jobs = draft.state.active_jobs()
    share = share_of(job, jobs, draft.fleet, draft.state.wear, draft.policy.spares)
    if share.nodes != job.warm_spares:
        draft.write(r.SparesWanted(job.uid, share.nodes, share.reason))
        return
    spares = refill_spares(draft.fleet, job, before(job, jobs))
    if spares != job.spare_nodes:
        draft.write(r.SparesChanged(job.uid, spares))
        give_up_parked(draft, job, set(job.spare_nodes).difference(spares))
        return
    budget = job.spec.restart_policy.user
    if 0 <= budget.max < job.failed_starts:
        return
    ranks = job.per_node()
    wanted = np.zeros(draft.fleet.size, dtype=np.int64)
    wanted[: len(ranks)] = np.where(ranks > 0, job.spec.spares.parked_per_node, 0)
    wanted[list(job.spare_nodes[: job.warm_spares])] = ranks.max(initial=0)
    hosts = job.hosts
    idle = (hosts.generation == 0) & hosts.live()
    there = np.bincount(hosts.node[idle], minlength=draft.fleet.size)
    short = np.flatnonzero(there < wanted)
    if not len(short):
        return
    starting = np.bincount(hosts.node[idle & (hosts.state == RankState.STARTING)], minlength=draft.fleet.size)
    missing = (wanted - there + starting)[short]
    request(draft, job, dict(zip(short.tolist(), missing.tolist(), strict=True)))
