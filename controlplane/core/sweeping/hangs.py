"""Hangs without a sign: every process lives, every node beats, and no rank makes a step.

A collective that waits for one rank looks the same to all who beat for it. So the agents are asked where their ranks stand
(`GATHER_STACKS`, answered into the soft state), as soon as the job is slower than it has ever been of late; what they say names
the ranks that hang (`health.standstill`), and those are lost and fenced at once. Where it names none and all wait for each other,
the generation is given up: whoever does not come to the next one is the one that hangs (`timeouts.late_generation` fences it).
Where the answers say neither, the job has the time that it always had (`hang_ms`, `hang_steps`), and is looked at again.
"""

from __future__ import annotations

import numpy as np

from controlplane.core import records as r
from controlplane.core.draft import Draft, Policy
from controlplane.core.effects import EffectKind
from controlplane.core.evidence import Facts, Reason
from controlplane.core.fleet import Fleet
from controlplane.core.health.standstill import Finding, StackGroup, Verdict, judge
from controlplane.core.jobs import NONE, HangWatch, Job, LostRank, host_id
from controlplane.core.observing.losses import lose_ranks
from controlplane.core.softstate import SoftState, StepTimes
from controlplane.core.sweeping import pauses
from controlplane.core.units import NS_PER_S, ms
from controlplane.core.vocabulary import Blame, JobState, NodeLiveness

LEARNED_STEPS = 16
"""Of fewer steps nobody can say how long they take."""
SPARE_MS = 10_000
"""By so much the order to the agents outlives the wait for their answers, which ends it."""
EVIDENCE_GROUPS = 4
"""Groups of ranks that a lost rank's evidence names."""


def hang(draft: Draft, job: Job) -> None:
    """Look for who hangs once steps have stopped for too long, as told by agents that we hear.

    A job that has never told of a step (a script that does not use the rank library) is left alone, and so is one of whose
    nodes none is heard: then it is us who do not know.
    """
    if job.state is not JobState.RUNNING or job.incident is not None:
        return
    _, moved_ns = draft.soft.progress(job.uid)
    if not (moved_ns or job.checkpoints or job.restore_step):
        return
    since_ns = quiet_since_ns(job, draft.soft)
    watch = job.hang
    if watch is not None and since_ns > watch.since_ns:
        moved = "the job makes steps" if moved_ns > watch.since_ns else "another controller looks anew"
        _close(draft, job, Verdict.OVER, moved)
    elif watch is not None and watch.effect:
        _look(draft, job, watch)
    elif watch is None or draft.now_ns >= watch.again_ns:
        limit_ns = limit_of(job, draft.fleet, draft.soft, draft.policy)
        if _quiet_ns(draft, since_ns) > limit_ns and _heard(draft, job):
            timeout_ms = draft.policy.hang_gather_ms + SPARE_MS
            effect = draft.effect(
                EffectKind.GATHER_STACKS,
                f"job:{job.uid}",
                job=job.uid,
                generation=job.generation,
                timeout_ms=timeout_ms,
            )
            draft.write(r.HangSuspected(job.uid, job.generation, since_ns, limit_ns, effect))


def quiet_since_ns(job: Job, soft: SoftState) -> int:
    """Since when a running job makes no step, as far as we can say, Unix ns."""
    return max(soft.progress(job.uid)[1], job.clock.running_ns, soft.trusted_since_ns())


def limit_of(job: Job, fleet: Fleet, soft: SoftState, policy: Policy) -> int:
    """How long no step means nothing yet, ns: what the job's own steps say, where nothing else explains that there is none."""
    step_ns = soft.step_time_ns(job.uid)
    fixed_ns = hang_limit_ns(policy, step_ns)
    if _at_hung_step(job, soft) or not _nothing_else(job, fleet, soft):
        return fixed_ns
    limit_ns = learned_limit_ns(policy, step_ns, soft.step_times(job.uid))
    if not _saves(job, soft):
        return limit_ns
    if not job.pace.stalls_ns:
        return fixed_ns
    return min(fixed_ns, max(limit_ns, round(policy.hang_times * (step_ns + max(job.pace.stalls_ns)))))


def _at_hung_step(job: Job, soft: SoftState) -> bool:
    """Whether a hang was found here before: what takes long every time (an evaluation by one rank) has the time that it needs."""
    return job.hung_step != NONE and abs(soft.progress(job.uid)[0] - job.hung_step) <= 1


def _saves(job: Job, soft: SoftState) -> bool:
    """Whether a checkpoint may be what takes long: a step is told before or after its save."""
    step, every = soft.progress(job.uid)[0], job.saves_every
    return every > 0 and (step % every == 0 or (step + 1) % every == 0)


def hang_limit_ns(policy: Policy, step_ns: int) -> int:
    """How long no step means nothing yet, for a job of which only the step time is known; at the latest then it hangs."""
    return max(ms(policy.hang_ms), policy.hang_steps * step_ns)


def learned_limit_ns(policy: Policy, step_ns: int, times: StepTimes) -> int:
    """The same for a job whose steps were seen lately. Never more than `hang_limit_ns`, never less than the floor."""
    fixed_ns = hang_limit_ns(policy, step_ns)
    if times.count < LEARNED_STEPS:
        return fixed_ns
    longest_ns = round(policy.hang_times * max(times.longest_ns, step_ns))
    spread_ns = times.median_ns + policy.hang_spreads * times.spread_ns
    return min(fixed_ns, max(ms(policy.hang_floor_ms), longest_ns, spread_ns))


def _nothing_else(job: Job, fleet: Fleet, soft: SoftState) -> bool:
    """Whether every node of a job is ALIVE and talks to us, and no rank says that it cannot go on: what a lost node or a broken
    link leads to has patience of its own."""
    if pauses.since(job, soft.trusted_since_ns()) is not None:
        return False
    nodes = np.array(job.nodes(), dtype=np.int64)
    return bool((fleet.session[nodes] & (fleet.liveness[nodes] == NodeLiveness.ALIVE)).all())


def _heard(draft: Draft, job: Job) -> bool:
    """Whether the agent of one of its nodes has a session: steps are told by agents."""
    return bool(draft.fleet.session[list(job.nodes())].any())


def _quiet_ns(draft: Draft, since_ns: int) -> int:
    """How long a moment ago is, without our own lag."""
    return draft.now_ns - since_ns - draft.excused_ns(since_ns)


def _look(draft: Draft, job: Job, watch: HangWatch) -> None:
    """The agents were asked: judge when all have answered, or have had time enough."""
    stacks = draft.soft.stacks(watch.effect)
    present = np.flatnonzero(job.present)
    whole = np.isin(present, stacks.rank).all()
    if not whole and _quiet_ns(draft, watch.asked_ns) <= ms(draft.policy.hang_gather_ms):
        return
    finding = judge(stacks, present, lambda rank: draft.fleet.name(int(job.rank_node[rank])))
    if finding.verdict is Verdict.ODD:
        _close(draft, job, finding.verdict, finding.reason, finding)
        _lose(draft, job, watch, finding)
        return
    fixed_ns = hang_limit_ns(draft.policy, draft.soft.step_time_ns(job.uid))
    if finding.verdict is Verdict.STUCK or _quiet_ns(draft, watch.since_ns) > fixed_ns:
        _close(draft, job, finding.verdict, finding.reason, finding)
        quiet_s = (draft.now_ns - watch.since_ns) / NS_PER_S
        text = f"no rank has made a step for {quiet_s:.0f} s, and none of them says why: {finding.reason}"
        lose_ranks(draft, job, (), text, Reason.HUNG, since_ns=watch.since_ns)
        return
    # Twice as long as it has been quiet so far, and when it is given up in any case.
    twice_ns = draft.now_ns + (draft.now_ns - watch.since_ns)
    last_ns = watch.since_ns + draft.excused_ns(watch.since_ns) + fixed_ns + 1
    _close(draft, job, finding.verdict, finding.reason, finding, again_ns=max(draft.now_ns + 1, min(twice_ns, last_ns)))


def _close(
    draft: Draft, job: Job, verdict: Verdict, reason: str, finding: Finding | None = None, *, again_ns: int = 0
) -> None:
    """Write the verdict down; nobody needs to answer any more."""
    watch = job.hang
    if watch is not None and watch.effect in draft.state.effects:
        draft.write(r.EffectsFinished((watch.effect,), ok=True))
    ranks = tuple(finding.odd.tolist()) if finding is not None else ()
    groups: tuple[StackGroup, ...] = finding.groups if finding is not None else ()
    step = draft.soft.progress(job.uid)[0]
    draft.write(r.HangJudged(job.uid, job.generation, verdict, reason, ranks, groups, again_ns, step))


def _lose(draft: Draft, job: Job, watch: HangWatch, finding: Finding) -> None:
    """The ranks that hang are lost, and their processes fenced: nobody has to wait for who will not come."""
    cause = f"hang: {finding.reason}"
    places = "; ".join(f"{group.count} at {group.where}" for group in finding.groups[:EVIDENCE_GROUPS])
    evidence = f"stacks and collectives of {int(np.count_nonzero(job.present))} ranks: {places}"
    first, *_ = odd = finding.odd.tolist()
    lost, by_node = [], dict[int, list[str]]()
    for rank in (
        odd
    ):  # may be half of a large gang: only the first one, which the ladder takes for the root, has the whole text
        serial = int(job.rank_host[rank])
        texts = (cause, evidence) if rank == first else (f"hangs as rank {first} does", f"see rank {first}")
        lost.append(
            LostRank(rank, serial, texts[0], Blame.INFRASTRUCTURE, watch.since_ns, texts[1], facts=Facts(Reason.HUNG))
        )
        by_node.setdefault(int(job.rank_node[rank]), []).append(host_id(job.uid, serial))
    for node, items in by_node.items():
        draft.effect(EffectKind.FENCE_HOSTS, f"node:{draft.fleet.name(node)}", job=job.uid, items=tuple(items))
    lose_ranks(draft, job, tuple(lost), cause, Reason.HUNG, since_ns=watch.since_ns)
