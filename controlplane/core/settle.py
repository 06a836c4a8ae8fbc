"""Level-triggered: compare one job with what it wants, and take the next step towards it. Called after every change."""

from __future__ import annotations

from controlplane.core import draining, parting
from controlplane.core.draft import Draft
from controlplane.core.jobs import Job
from controlplane.core.orders import end_job
from controlplane.core.settling.binding import bind, needs_generation
from controlplane.core.settling.deciding import judge_incident, resume
from controlplane.core.settling.ending import all_finished, finish_ending
from controlplane.core.settling.growing import come_back
from controlplane.core.settling.placing import find_places
from controlplane.core.settling.upkeep import checkpoints, leave_nodes, phases, top_up
from controlplane.core.settling.words import say
from controlplane.core.vocabulary import JobState


def settle(draft: Draft, uid: str) -> None:
    """One step for one job; every written record leads to another look."""
    job = draft.state.jobs.get(uid)
    if job is None or job.terminal:
        return
    before = len(draft.records)
    if job.ending is None:
        draining.clear(draft, job)
        parting.conclude(draft, job)
    if len(draft.records) == before:
        _settle(draft, job)
    if len(draft.records) > before:
        draft.settle(uid)


def _improve(draft: Draft, job: Job) -> None:
    """A running job that needs nothing leaves nodes that drain, and takes its replicas back."""
    if job.state is not JobState.RUNNING:
        return
    before = len(draft.records)
    waits = leave_nodes(draft, job) if draining.leaving(draft.fleet, job) else come_back(draft, job)
    if len(draft.records) == before:
        say(draft, job, waits)


def _settle(draft: Draft, job: Job) -> None:
    if job.ending is not None:
        finish_ending(draft, job, job.ending)
    elif all_finished(job):
        end_job(draft, job, JobState.SUCCEEDED, "all ranks finished", 0)
    elif not job.placed:
        find_places(draft, job)
    elif job.incident is not None and not job.incident.decided_ns:
        judge_incident(draft, job)
    elif job.state is JobState.SUSPENDED:
        resume(draft, job)
    elif needs_generation(job):
        bind(draft, job)
    else:
        before = len(draft.records)
        phases(draft, job)
        checkpoints(draft, job)
        top_up(draft, job)
        if len(draft.records) == before:
            _improve(draft, job)
