"""Records about gangs that stand still into state."""

from __future__ import annotations

from dataclasses import replace

from controlplane.core import records as r
from controlplane.core.health.standstill import Verdict
from controlplane.core.jobs import HangWatch
from controlplane.core.state import State


def suspected(state: State, record: r.HangSuspected, at_ns: int) -> None:
    """The agents of a job are asked where its ranks stand."""
    state.own_job(record.job).hang = HangWatch(record.since_ns, at_ns, record.effect)


def judged(state: State, record: r.HangJudged) -> None:
    """They have answered, or not in time."""
    job = state.own_job(record.job)
    if record.verdict in (Verdict.ODD, Verdict.STUCK):
        job.hung_step = record.step
    if job.hang is not None:
        job.hang = replace(job.hang, effect="", again_ns=record.again_ns) if record.again_ns else None
