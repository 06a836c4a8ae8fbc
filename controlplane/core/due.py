"""When time alone could decide something next, so that quiet time need not be ticked through.

Every look at the clock in the machine is a comparison that turns at one moment. Here those moments are collected, never too
late and sometimes in vain: a tick that decides nothing is harmless. Whoever adds a look at the clock adds its moment here;
tests/property/test_due.py compares dense ticks with due ones over random histories and finds what is missing.

Contract: one usual interval after anything happened (a turn that wrote something, a tick included; a change of the soft
state) there is a tick. Once a tick at `now_ns` has written nothing, the next one is due at `due_ns`. The soft state is a
closed form: a node that is heard at this very moment goes on beating, and a job goes on stepping in its step time. What a
blocked journal waits for is the engine's own (`engine.turn.PROBE_NS`). A world that knows which jobs go on until something
happens to them names them (`stepping`): nobody has to look whether they still do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from controlplane.core.draft import Policy
from controlplane.core.health import distrust
from controlplane.core.health.canaries import APART_MS
from controlplane.core.health.suspicion import SuspicionPolicy
from controlplane.core.jobs import Job
from controlplane.core.recovery.budgets import backoff_ns, budget_for
from controlplane.core.softstate import SoftState
from controlplane.core.state import State
from controlplane.core.sweeping import pauses
from controlplane.core.sweeping.hangs import hang_limit_ns, limit_of, quiet_since_ns
from controlplane.core.sweeping.scrub import due_at
from controlplane.core.units import NS_PER_MS, ms, seconds
from controlplane.core.vocabulary import Blame, JobState, NodeLiveness

JUST_AFTER_NS = 1
"""Most limits have to be exceeded."""

NEVER_NS = 2**62


@dataclass(frozen=True, slots=True)
class Wait:
    """A moment that our own lag puts off: so long (ns) after another one (Unix ns)."""

    since_ns: int
    lasts_ns: int


Moments = Iterator[int | np.ndarray | Wait]


def due_ns(state: State, soft: SoftState, now_ns: int, policy: Policy, *, stepping: Collection[str] = ()) -> int | None:
    """The earliest time after `now_ns` at which a `Tick` could decide anything if nothing else happens; None: never.

    Args:
        stepping: uids of jobs that make steps until something happens, which is then followed by a tick.
    """
    earliest = NEVER_NS
    waits: list[Wait] = []
    for moment in _moments(state, soft, now_ns, policy, stepping):
        if isinstance(moment, Wait):
            waits.append(moment)
        elif isinstance(moment, np.ndarray):
            earliest = _first(moment, now_ns, earliest)
        elif now_ns < moment < earliest:
            earliest = moment
    since_ns = np.array([wait.since_ns for wait in waits], dtype=np.int64)
    lasts_ns = np.array([wait.lasts_ns for wait in waits], dtype=np.int64)
    earliest = _first(since_ns + soft.excused_ns(since_ns) + lasts_ns, now_ns, earliest)
    return None if earliest == NEVER_NS else earliest


def waits_until_ns(state: State, now_ns: int) -> int:
    """The earliest moment after `now_ns` at which a job has waited long enough for failures that belong together, or for its next
    start, Unix ns; NEVER_NS: none waits. Cheap, for whoever ticks densely anyway and wants to be there in time."""
    earliest = NEVER_NS
    for job in state.active_jobs():
        for moment in (job.not_before_ns, job.incident.collect_until_ns if job.incident is not None else 0):
            if now_ns < moment < earliest:
                earliest = moment
    return earliest


def _first(moments: np.ndarray, now_ns: int, earliest_ns: int) -> int:
    """The first of some moments after now, if it is earlier than what is known."""
    later = moments[moments > now_ns]
    return min(earliest_ns, int(later.min())) if len(later) else earliest_ns


def _moments(state: State, soft: SoftState, now_ns: int, policy: Policy, stepping: Collection[str]) -> Moments:
    yield distrust.ends_ns(soft.vitals(), policy.distrust)
    yield from _silence(state, soft, now_ns, policy)
    yield from _effects(state, soft, policy)
    yield from _health(state, policy)
    yield from _canaries(state, policy)
    yield from _storage(state, policy)
    for job in state.active_jobs():
        yield from _processes(job, soft)
        yield from _generation(job, soft)
        yield from _rung(job, soft)
        yield from _replicas(job, soft, policy)
        yield from _waits(state, job, soft, policy)
        if job.uid not in stepping:
            yield from _stands_still(state, job, soft, policy)


def _silence(state: State, soft: SoftState, now_ns: int, policy: Policy) -> Moments:
    """The limits of silence, and of jobs whose steps speak for silent nodes."""
    fleet, limits = state.fleet, policy.suspicion
    heard = np.maximum(soft.last_beat_ns(fleet.size), soft.trusted_since_ns())
    silent = np.flatnonzero((heard < now_ns) & (fleet.liveness != NodeLiveness.DEAD))
    if not len(silent):
        return
    counted = heard[silent] + soft.excused_ns(heard[silent])
    for limit_s in (limits.brief_s, limits.lease_s, 2 * limits.lease_s, limits.dead_without_witness_s):
        yield counted + seconds(limit_s) + JUST_AFTER_NS
    alone_ns = np.array(list(state.health.alone.values()), dtype=np.int64)
    yield alone_ns + soft.excused_ns(alone_ns) + seconds(limits.dead_without_witness_s) + JUST_AFTER_NS
    for job in state.active_jobs():
        if job.state is JobState.RUNNING:
            held = job.per_node()
            here = silent[silent < len(held)]
            here = here[held[here] > 0]
            if len(here):
                yield from _steps(job, soft, int(heard[here].max()), limits)


def _steps(job: Job, soft: SoftState, heard_ns: int, limits: SuspicionPolicy) -> Moments:
    """A job's next step, which proves the life of its silent nodes, and the moment from which on its steps have stopped.
    `heard_ns`: when the last of those nodes was heard; steps long after that say nothing new of them."""
    _, moved_ns = soft.progress(job.uid)
    step_ns = soft.step_time_ns(job.uid)
    lease_ns = seconds(limits.lease_s)
    if moved_ns <= heard_ns + 2 * lease_ns:
        yield moved_ns + step_ns + JUST_AFTER_NS
    since_ns = max(moved_ns, soft.trusted_since_ns(), job.clock.running_ns)
    limit_ns = max(lease_ns, limits.slow_steps * step_ns)
    yield Wait(since_ns, limit_ns)
    yield Wait(since_ns, limit_ns + JUST_AFTER_NS)


def _effects(state: State, soft: SoftState, policy: Policy) -> Moments:
    """Deadlines of what agents were asked for; after a restart all of them have the usual time again."""
    if not state.effects:
        return
    usual_ns = ms(policy.effect_ms)
    not_before_ns = soft.trusted_since_ns() + usual_ns + JUST_AFTER_NS
    deadlines = np.array([effect.deadline_ns for effect in state.effects.values()], dtype=np.int64)
    yield np.maximum(deadlines + soft.excused_ns(deadlines - usual_ns) + JUST_AFTER_NS, not_before_ns)


def _canaries(state: State, policy: Policy) -> Moments:
    """When the next one may be released, and when one that is awaited is missed."""
    book, deadline_ns = state.canaries, ms(policy.canaries.deadline_ms)
    if policy.canaries.every_ms:
        yield book.last_ns + ms(policy.canaries.every_ms)
        yield from (one.at_ns + ms(APART_MS) for one in book.resting)
    yield from (Wait(one.at_ns, deadline_ns + JUST_AFTER_NS) for one in book.flying)


def _storage(state: State, policy: Policy) -> Moments:
    """When what is stored is read back anew, and when a save before a planned stop is waited for no longer."""
    if policy.checkpoints.scrub_every_ms:
        yield from (at_ns for at_ns, _, _ in due_at(state, policy.checkpoints))
    for job in state.active_jobs():
        if job.saving is not None and not job.saving.ended_ns:
            yield job.saving.until_ns


def _health(state: State, policy: Policy) -> Moments:
    """Debounces and release timers of faults; checks and trials of nodes; acts that may be asked for again."""
    book = state.health
    yield np.array([fault.note.until_ns for node in book.waiting() for fault in book.on(node)], dtype=np.int64)
    yield np.array([stay.next_ns for stay in state.health.stays.values()], dtype=np.int64)
    pair_wait_ns = ms(policy.quarantine.pair_wait_ms)
    yield np.array([s.paired_ns + pair_wait_ns for s in state.health.stays.values() if s.paired_ns], dtype=np.int64)
    yield np.array(list(state.health.refused.values()), dtype=np.int64) + ms(policy.actions.window_ms)


def _processes(job: Job, soft: SoftState) -> Moments:
    """Processes that must have parked, and the wait before the next ones are started."""
    hosts = job.hosts
    if len(hosts.coming):
        start_ns = ms(job.spec.timeouts.start_ms + 1)
        trusted_ns = np.array([soft.trusted_since_ns()], dtype=np.int64)
        since_ns = ms(1) * np.unique(hosts.since_ms[hosts.coming])
        late = since_ns + soft.excused_ns(since_ns) // NS_PER_MS * NS_PER_MS + start_ns
        yield np.maximum(late, trusted_ns + soft.excused_ns(trusted_ns) + start_ns)
    if job.failed_starts:
        yield ms(int(hosts.since_ms.max(initial=0))) + backoff_ns(job.spec.restart_policy.backoff, job.failed_starts)


def _generation(job: Job, soft: SoftState) -> Moments:
    """The deadline of a generation that has not come to run."""
    if job.clock.announced_ns and not job.clock.running_ns:
        since_ns = max(job.clock.announced_ns, soft.trusted_since_ns())
        yield Wait(since_ns, ms(job.spec.timeouts.join_ms) + JUST_AFTER_NS)


def _rung(job: Job, soft: SoftState) -> Moments:
    """The deadline of the rung that was decided."""
    incident = job.incident
    if incident is not None and incident.decided_ns and incident.deadline_ns:
        since_ns = max(incident.decided_ns, soft.trusted_since_ns())
        allowed_ns = incident.deadline_ns - incident.decided_ns
        yield Wait(since_ns, allowed_ns + JUST_AFTER_NS)


def _replicas(job: Job, soft: SoftState, policy: Policy) -> Moments:
    """The patience of ranks that wait for a peer, and the time from which on replicas may come back."""
    if job.state is not JobState.RUNNING:
        return
    ladder = policy.ladder
    since_ns = pauses.since(job, soft.trusted_since_ns())
    if since_ns is not None:
        yield Wait(since_ns, pauses.patience_ns(policy) + JUST_AFTER_NS)
    if job.participants:
        yield max(job.clock.announced_ns, soft.trusted_since_ns()) + ms(ladder.grow_interval_ms)


def _waits(state: State, job: Job, soft: SoftState, policy: Policy) -> Moments:
    """What a job waits for on purpose: its turn, failures that belong together, a node to be seen whole, a back-off."""
    yield job.not_before_ns
    if job.state is JobState.QUEUED:
        yield job.submitted_ns + ms(policy.queue_patience_ms)
    incident = job.incident
    begun = [job.submitted_ns]
    if incident is not None:
        yield incident.collect_until_ns
        begun += [incident.detected_ns, incident.decided_ns]
    for since_ns in begun:
        yield Wait(max(since_ns, soft.trusted_since_ns()), ms(policy.patience_ms))
        yield Wait(max(since_ns, soft.trusted_since_ns()), seconds(policy.suspicion.lease_s))
    if incident is not None:
        yield Wait(max(incident.detected_ns, soft.trusted_since_ns()), ms(policy.copies_wait_ms))
    if job.state is JobState.SUSPENDED:
        yield from _windows(state, job)


def _windows(state: State, job: Job) -> Moments:
    """A suspended job is judged again when charges and earlier incidents leave the windows in which they count."""
    restarts = job.spec.restart_policy
    for blame in Blame:
        window_ns = ms(budget_for(restarts, blame).window_ms)
        yield np.array([charge.at_ns + window_ns for charge in job.restarts if charge.blame is blame], dtype=np.int64)
    offences = np.array([offence.at_ns for offence in state.offences], dtype=np.int64)
    for match in (*(rule.match for rule in restarts.job_rules), *(rule.match for rule in restarts.node_rules)):
        if match.within_ms:
            yield offences + ms(match.within_ms)


def _stands_still(state: State, job: Job, soft: SoftState, policy: Policy) -> Moments:
    """The patience with a running job that makes no step, and with agents that are asked why."""
    if job.state is JobState.RUNNING and job.incident is None:
        since_ns = quiet_since_ns(job, soft)
        yield Wait(since_ns, limit_of(job, state.fleet, soft, policy) + JUST_AFTER_NS)
        yield Wait(since_ns, hang_limit_ns(policy, soft.step_time_ns(job.uid)) + JUST_AFTER_NS)
        if job.hang is not None:
            yield job.hang.again_ns
            yield Wait(job.hang.asked_ns, ms(policy.hang_gather_ms) + JUST_AFTER_NS)
