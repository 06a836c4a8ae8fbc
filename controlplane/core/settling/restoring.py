"""Where the next generation of a job starts, with what is known now."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controlplane.core.checkpoints import Checkpoint
from controlplane.core.draft import Draft
from controlplane.core.jobs import NONE, Job
from controlplane.core.ranges import runs
from controlplane.core.records import FromTier
from controlplane.core.recovery.copies import replicas_of, same_state
from controlplane.core.recovery.corruption import doubted
from controlplane.core.recovery.restore_point import Copies, RestorePoint, Tier, restore_point
from controlplane.core.vocabulary import NodeLiveness, Rung

SHOWN_RUNS = 32
"""Runs of ranks that a record names for each tier; it has their number in any case."""
SHOWN_STEPS = 4
"""Newer steps that were passed over and are named."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a generation starts, as its record tells it; see `records.GenerationStarted`."""

    checkpoint: str
    step: int
    keeps_state: bool = False
    sources: tuple[FromTier, ...] = ()
    passed_over: tuple[str, ...] = ()
    redone_ns: int = -1


def origin(draft: Draft, job: Job) -> Origin:
    """Where the job's next generation starts: from what every rank holds when a step is only tried again, else from the
    restore point."""
    incident = job.incident
    if incident and incident.rung == Rung.RETRY_STEP and incident.intact:
        return Origin(job.restore_id, incident.step, keeps_state=True)
    point = find(draft, job)
    passed = point.passed_over[:SHOWN_STEPS]
    return Origin(point.checkpoint, point.step, False, _sources(point), passed, _redone_ns(draft, job, point))


def without_origin(job: Job) -> str:
    """Why a job that was to resume from another one's checkpoint does not start from nothing instead."""
    bad = [f"{c.id} is {c.state.name}: {c.reason}" for c in job.checkpoints.values() if not c.restorable and c.reason]
    told = "; ".join(bad[:2]) or "none of its checkpoints may be restored"
    return f"it was to resume from {job.spec.checkpoint.resume_from}, and would have to start anew: {told}"


def find(draft: Draft, job: Job) -> RestorePoint:
    """The restore point of the job's next generation. Agents are asked for what they hold of it, now."""
    below = [job.restore_limit + 1] if job.restore_limit != NONE else []
    if job.suspicion is not None and job.generation <= job.suspicion.generation:
        below.append(job.suspicion.first_step)
    copies = _copies(draft, job)
    ranks, parallel = job.spec.ranks, job.spec.parallel
    alike = job.spec.checkpoint.replicated or copies.replicated
    return restore_point(
        job.present,
        _reachable(draft, job, copies),
        _allowed(job),
        trusted_below=min(below, default=None),
        same_state=same_state(ranks, parallel) if alike else None,
        replicas=None if copies.partial is None else replicas_of(ranks, parallel),
    )


def _copies(draft: Draft, job: Job) -> Copies:
    """What ranks and agents hold: nothing before the first generation, and nothing that counts while results are in doubt."""
    if not job.generation or (job.incident is not None and doubted(job.incident.lost)):
        return Copies.none()
    return draft.soft.copies(job.uid)


def _allowed(job: Job) -> list[Checkpoint]:
    """Manifests that a rule's rollback has not passed over."""
    return [c for c in job.checkpoints.values() if job.restore_limit == NONE or c.step <= job.restore_limit]


def _reachable(draft: Draft, job: Job, copies: Copies) -> Copies:
    """Copies whose holder still has them: a process that kept its rank, or a node that we talk with."""
    if len(copies.step) != job.spec.ranks:
        return copies
    fleet = draft.fleet
    owner = np.maximum(copies.owner, 0)
    talks = fleet.session[owner] & (fleet.liveness[owner] != NodeLiveness.DEAD) & (copies.owner >= 0)
    kept_process = (job.rank_host != NONE)[:, None]
    return copies.kept(np.where(copies.tier == Tier.SURVIVOR, kept_process, talks))


def _sources(point: RestorePoint) -> tuple[FromTier, ...]:
    """Which ranks take their state from which tier; nothing when all take it from the manifest, or from the start."""
    if not len(point.tier):
        return ()
    found = []
    for words, count in point.tiers:
        ranks = np.flatnonzero(point.tier == Tier[words.upper().replace(" ", "_")])
        found.append(FromTier(words, count, runs(ranks)[:SHOWN_RUNS]))
    return tuple(found)


def _redone_ns(draft: Draft, job: Job, point: RestorePoint) -> int:
    """How long the job had worked since it made the restore point's step, until it failed; -1: what the checkpoint says.

    Only for state that no checkpoint accounts for; steps since then took as long as steps do.
    """
    incident = job.incident
    step, learned_ns = draft.soft.progress(job.uid)
    if point.checkpoint or not point.step or incident is None or not learned_ns:
        return -1
    made_ns = learned_ns - max(0, step - point.step) * draft.soft.step_time_ns(job.uid)
    return max(0, incident.fault_ns - made_ns)
