"""How often the next generation of a job saves, where its manifest leaves that to the controller."""

from __future__ import annotations

from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.jobs import Job
from controlplane.core.placement.spares import failures_per_node_day
from controlplane.core.recovery.interval import (
    MIN_SAVES,
    SaveCosts,
    between_failures_s,
    steps_between_saves,
    worth_changing,
)
from controlplane.core.spec import AUTO, CheckpointPolicy
from controlplane.core.units import to_s
from controlplane.core.vocabulary import Bucket


def set_interval(draft: Draft, job: Job) -> None:
    """Ranks are told the interval with their generation, so that it is decided when one begins, and stays until the next."""
    limits = job.spec.checkpoint
    if limits.every_steps != AUTO:
        return
    if len(job.pace.stalls_ns) < MIN_SAVES or not job.pace.step_ns:
        if not job.every_steps:
            first = max(limits.min_steps, min(limits.max_steps, CheckpointPolicy().every_steps))
            draft.write(r.CheckpointIntervalSet(job.uid, first, "nothing measured yet"))
        return
    costs = measured(draft, job)
    best = steps_between_saves(costs, limits.min_steps, limits.max_steps)
    if best != job.every_steps and worth_changing(job.every_steps, best):
        text = (
            f"a save stalls {costs.stall_s:.3g} s, a step takes {costs.step_s:.3g} s, "
            f"{costs.between_failures_s:.3g} s between failures (Young/Daly)"
        )
        draft.write(r.CheckpointIntervalSet(job.uid, best, text))


def measured(draft: Draft, job: Job) -> SaveCosts:
    """What saving and failing cost this job, as far as it has lived through it."""
    devices = max(1, draft.state.tally().of(job))
    lived_s = to_s(job.ledger_ns.get(Bucket.PRODUCTIVE, 0) + job.ledger_ns.get(Bucket.WASTED_PROGRESS, 0)) / devices
    rate = failures_per_node_day(draft.state.wear, draft.policy.spares)
    between_s = between_failures_s(lived_s, len(job.restarts), len(job.nodes()), rate)
    return SaveCosts(to_s(job.pace.stall_ns), to_s(job.pace.step_ns), between_s)
