"""Hangs without a sign: every process lives, every node beats, and no rank makes a step.

A collective that waits for one rank looks the same on all of them, so that nobody can be accused yet: the generation is
given up, and whoever does not come to the next one is the one that hangs (`timeouts.late_generation` fences it).
"""

from __future__ import annotations

from controlplane.core.draft import Draft, Policy
from controlplane.core.jobs import Job
from controlplane.core.observing.losses import lose_ranks
from controlplane.core.units import NS_PER_S, ms
from controlplane.core.vocabulary import JobState


def hang(draft: Draft, job: Job) -> None:
    """Give up a generation whose steps have stopped for too long, as told by agents that we hear.

    A job that has never told of a step (a script that does not use the rank library) is left alone, and so is one of whose
    nodes none is heard: then it is us who do not know.
    """
    if job.state is not JobState.RUNNING or job.incident is not None:
        return
    _, moved_ns = draft.soft.progress(job.uid)
    if not (moved_ns or job.checkpoints or job.restore_step):
        return
    since_ns = max(moved_ns, job.clock.running_ns, draft.soft.trusted_since_ns())
    quiet_ns = draft.now_ns - since_ns
    limit_ns = hang_limit_ns(draft.policy, draft.soft.step_time_ns(job.uid))
    if quiet_ns > limit_ns and quiet_ns - draft.excused_ns(since_ns) > limit_ns and _heard(draft, job):
        text = f"no rank has made a step for {quiet_ns / NS_PER_S:.0f} s, and none of them says why"
        lose_ranks(draft, job, (), text, since_ns=since_ns)


def hang_limit_ns(policy: Policy, step_ns: int) -> int:
    """How long no step means nothing yet, for a job with this step time."""
    return max(ms(policy.hang_ms), policy.hang_steps * step_ns)


def _heard(draft: Draft, job: Job) -> bool:
    """Whether the agent of one of its nodes has a session: steps are told by agents."""
    return bool(draft.fleet.session[list(job.nodes())].any())
