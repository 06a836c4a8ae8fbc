"""What time alone changes: silence, late processes, late generations, effects that nobody answered."""

from __future__ import annotations

from controlplane.core import draining
from controlplane.core.draft import Draft
from controlplane.core.sweeping.canaries import canaries
from controlplane.core.sweeping.hangs import hang
from controlplane.core.sweeping.health import faults
from controlplane.core.sweeping.liveness import liveness
from controlplane.core.sweeping.pauses import pause
from controlplane.core.sweeping.scrub import scrub
from controlplane.core.sweeping.stragglers import stragglers
from controlplane.core.sweeping.timeouts import effects, late_generation, late_rung, late_starts
from controlplane.core.vocabulary import JobState


def tick(draft: Draft) -> None:
    """Judge silence, then look at every deadline."""
    liveness(draft)
    effects(draft)
    faults(draft)
    canaries(draft)
    scrub(draft)
    draining.finish(draft)
    for job in draft.state.active_jobs():
        if not job.ending:
            late_starts(draft, job)
            late_generation(draft, job)
            hang(draft, job)
            pause(draft, job)
            stragglers(draft, job)
            late_rung(draft, job)
        saving = job.saving is not None and not job.saving.ended_ns
        if saving or job.state is not JobState.RUNNING or job.ending or job.failed_starts or job.participants:
            draft.settle(job.uid)
