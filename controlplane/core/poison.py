"""Doubt about a job's results: what was saved since the first sign is not restored until somebody clears it.

Called by whoever finds a sign (restart rules, a workload's result check, an operator). Nothing is deleted because of doubt.
"""

from __future__ import annotations

from controlplane.core import records as r
from controlplane.core.checkpoints import first_suspect_step, passed_over
from controlplane.core.draft import Draft
from controlplane.core.jobs import Job
from controlplane.core.orders import request_verification


def suspect(draft: Draft, job: Job, since_ns: int, reason: str, evidence: tuple[str, ...] = ()) -> None:
    """Results of the job's generation may be wrong since `since_ns` (Unix ns), the first sign."""
    suspect_from(draft, job, first_suspect_step(job.checkpoints.values(), since_ns), since_ns, reason, evidence)


def suspect_from(  # noqa: PLR0917 - the two ends of the doubt and its reason
    draft: Draft, job: Job, first_step: int, since_ns: int, reason: str, evidence: tuple[str, ...] = ()
) -> None:
    """Results may be wrong from a step on. A doubt that reaches no further back than the one that stands, in the same
    generation, is no news."""
    known = job.suspicion
    if known is not None and known.generation == job.generation and known.first_step <= first_step:
        return
    draft.write(r.CorruptionSuspected(job.uid, since_ns, first_step, job.generation, reason, evidence))
    draft.settle(job.uid)


def roll_back(draft: Draft, job: Job, checkpoints: int, reason: str) -> None:
    """Pass over the newest restorable checkpoints for good: the next generation starts from before them."""
    for checkpoint in passed_over(job.checkpoints.values(), checkpoints):
        draft.write(r.CheckpointPoisoned(job.uid, checkpoint.id, reason))


def clear(draft: Draft, job: Job, by: str, reason: str) -> bool:
    """Take the doubt back and have what it had poisoned read back again. False: there is none."""
    if job.suspicion is None and not any(c.suspected for c in job.checkpoints.values()):
        return False
    draft.write(r.CorruptionCleared(job.uid, by, reason))
    for checkpoint in job.checkpoints.values():
        if checkpoint.suspected:
            request_verification(draft, job, checkpoint.id)
    draft.settle(job.uid)
    return True
