"""What time alone changes: silence, late processes, late generations, effects that nobody answered."""

from __future__ import annotations

import numpy as np

from controlplane.core import draining
from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.effects import EffectKind
from controlplane.core.health.suspicion import GROUND_TEXT, Ground, Sight, judge
from controlplane.core.jobs import NONE, Exit, Job, LostRank, host_id
from controlplane.core.observe import lose_ranks
from controlplane.core.units import NS_PER_S, ms, seconds
from controlplane.core.vocabulary import Blame, JobState, NodeLiveness, RankState


def tick(draft: Draft) -> None:
    """Judge silence, then look at every deadline."""
    _liveness(draft)
    _effects(draft)
    draining.finish(draft)
    for job in draft.state.active_jobs():
        if not job.ending:
            _late_starts(draft, job)
            _late_generation(draft, job)
        if job.state is not JobState.RUNNING or job.ending or job.failed_starts:
            draft.settle(job.uid)


def _sight(draft: Draft) -> Sight:
    fleet, soft = draft.fleet, draft.soft
    trusted = soft.trusted_since_ns()
    heard = np.maximum(soft.last_beat_ns(fleet.size), trusted)
    silence = np.maximum(draft.now_ns - heard, 0) / NS_PER_S
    stopped = np.zeros(fleet.size, dtype=np.bool_)
    stepping = np.zeros(fleet.size, dtype=np.bool_)
    lease = draft.policy.suspicion.lease_s
    member = fleet.cell_member | ~fleet.cell_known
    reset = ~fleet.session & (heard > trusted)
    suspects = np.flatnonzero(silence > lease)
    for job in draft.state.active_jobs() if len(suspects) else ():
        if job.state is not JobState.RUNNING:
            continue
        nodes = np.unique(job.rank_node)
        here = suspects[np.isin(suspects, nodes)]
        if not len(here):
            continue
        _, moved_ns = draft.soft.progress(job.uid)
        quiet_s = (draft.now_ns - max(moved_ns, trusted, job.clock.running_ns)) / NS_PER_S
        # Steps are told by agents: when every node of the job is silent, nobody is left to witness that they stopped.
        told = len(here) < len(nodes)
        stopped[here] |= told and quiet_s > lease
        stepping[here] |= (moved_ns > heard[here] + seconds(lease / 2)) & (quiet_s < lease)
    halted = _halted(draft, np.flatnonzero(reset & ~member))
    return Sight(fleet.liveness, fleet.session, silence, member, stopped, stepping, reset, halted)


def _halted(draft: Draft, nodes: np.ndarray) -> np.ndarray:
    """Mask over nodes: each job with ranks there has a rank elsewhere that is PAUSED in the current generation.

    Asked only of `nodes`. A job that does not say so may still make steps there, and speaks for the node's life.
    """
    said = np.zeros(draft.fleet.size, dtype=np.bool_)
    denied = np.zeros(draft.fleet.size, dtype=np.bool_)
    for job in draft.state.active_jobs() if len(nodes) else ():
        hosts = job.hosts
        bound = (hosts.rank != NONE) & (hosts.generation == job.generation) & hosts.live()
        paused = bound & (hosts.state == RankState.PAUSED) & (ms(1) * hosts.since_ms >= job.clock.announced_ns)
        for node in nodes[np.isin(nodes, hosts.node[bound])].tolist():
            (said if (paused & (hosts.node != node)).any() else denied)[node] = True
    return said & ~denied


def _liveness(draft: Draft) -> None:
    fleet = draft.fleet
    if not fleet.size:
        return
    verdicts, grounds = judge(_sight(draft), draft.policy.suspicion)
    for ground in np.unique(grounds):
        if ground == Ground.NONE:
            continue
        rows = np.flatnonzero(grounds == ground)
        names = tuple(fleet.name(int(n)) for n in rows)
        verdict = NodeLiveness(int(verdicts[rows[0]]))
        text = GROUND_TEXT[Ground(int(ground))]
        draft.write(r.LivenessChanged(names, verdict, text, _witnesses(Ground(int(ground)))))
        if verdict is NodeLiveness.DEAD:
            _bury(draft, rows, text)
    if grounds.any():
        for job in draft.state.active_jobs():
            draft.settle(job.uid)


def _witnesses(ground: Ground) -> tuple[str, ...]:
    match ground:
        case Ground.CELL_WITNESS:
            return ("lease", "cell")
        case Ground.THREE_WITNESSES:
            return ("session", "cell", "peer ranks")
        case Ground.STEPS_WITNESS:
            return ("lease", "rank progress")
        case Ground.LEASE | Ground.LONG_SILENCE | Ground.CORRELATED:
            return ("lease",)
        case Ground.PROOF_OF_LIFE:
            return ("rank progress",)
        case Ground.BEAT | Ground.NONE:
            return ("session",)


def _bury(draft: Draft, rows: np.ndarray, reason: str) -> None:
    """Processes on DEAD nodes are LOST; the ranks that they held open one incident per job."""
    dead = set(rows.tolist())
    names = {draft.fleet.name(number) for number in dead}
    beats = draft.soft.last_beat_ns(draft.fleet.size)
    for job in draft.state.active_jobs():
        hosts = job.hosts
        here = np.isin(hosts.node, rows) & hosts.live()
        if not here.any():
            draft.settle(job.uid)
            continue
        lost = []
        serials = []
        for serial, node, rank in zip(
            hosts.serial[here].tolist(), hosts.node[here].tolist(), hosts.rank[here].tolist(), strict=True
        ):
            fault_ns = int(beats[node]) or draft.now_ns
            serials.append(serial)
            draft.write(r.HostEnded(job.uid, serial, rank, fault_ns, Exit(observed=False)))
            if rank != NONE:
                text = f"node {draft.fleet.name(node)} is DEAD: {reason}"
                lost.append(LostRank(rank, serial, text, Blame.INFRASTRUCTURE, fault_ns, text))
        if job.ending:  # keeps its rank table; LOST processes of DEAD nodes do not delay the end
            draft.settle(job.uid)
            continue
        if lost:
            lose_ranks(draft, job, tuple(lost), lost[0].cause)
        draft.write(r.HostsForgotten(job.uid, tuple(serials)))
        draft.settle(job.uid)
    ids = tuple(effect.id for effect in draft.state.effects.values() if effect.node in names)
    if ids:
        draft.write(r.EffectsFinished(ids, ok=False, message="the node is DEAD", expired=True))


def _effects(draft: Draft) -> None:
    """Effects that nobody answered in time end; a fence is asked for again until its processes are gone.

    After our own lag or a restart every outstanding effect has the whole time of an effect again: it goes out anew when
    its agent is back.
    """
    if draft.now_ns <= draft.soft.trusted_since_ns() + ms(draft.policy.effect_ms):
        return
    late = [effect for effect in draft.state.effects.values() if effect.deadline_ns < draft.now_ns]
    if not late:
        return
    draft.write(r.EffectsFinished(tuple(effect.id for effect in late), ok=False, message="no answer", expired=True))
    for effect in late:
        if effect.kind is EffectKind.FENCE_HOSTS:
            draft.effect(effect.kind, effect.target, job=effect.job, items=effect.items, grace_ms=effect.grace_ms)
        elif effect.kind is EffectKind.START_HOSTS:
            draft.settle(effect.job)


def _late_starts(draft: Draft, job: Job) -> None:
    """Processes that did not park in time are fenced; their end is counted as a failed start when it is reported."""
    hosts = job.hosts
    limit_ms = (draft.now_ns - max(draft.soft.trusted_since_ns(), 0)) // 1_000_000
    coming = (hosts.generation == 0) & (hosts.state == RankState.STARTING)
    if not coming.any():
        return
    age_ms = np.minimum(draft.now_ns // 1_000_000 - hosts.since_ms, limit_ms)
    late = coming & (age_ms > job.spec.timeouts.start_ms)
    fenced = {
        item
        for effect in draft.state.effects.values()
        if effect.kind is EffectKind.FENCE_HOSTS
        for item in effect.items
    }
    by_node: dict[int, list[str]] = {}
    for serial, node in zip(hosts.serial[late].tolist(), hosts.node[late].tolist(), strict=True):
        name = host_id(job.uid, serial)
        if name not in fenced:
            by_node.setdefault(node, []).append(name)
    for node, names in by_node.items():
        draft.effect(EffectKind.FENCE_HOSTS, f"node:{draft.fleet.name(node)}", job=job.uid, items=tuple(names))


def _late_generation(draft: Draft, job: Job) -> None:
    """A generation that does not come to run in time: fence those who lag behind, or roll back when nobody stands out."""
    clock = job.clock
    if not clock.announced_ns or clock.running_ns or (job.rank_host == NONE).any():
        return
    if job.incident and not job.incident.placed_ns:
        return
    since = max(clock.announced_ns, draft.soft.trusted_since_ns())
    if draft.now_ns - since <= ms(job.spec.timeouts.join_ms):
        return
    reached = (job.rank_times > 0).sum(axis=1)
    behind = np.flatnonzero(reached == reached.min())
    cause = f"generation {job.generation} did not come to run in {job.spec.timeouts.join_ms / 1000:g} s"
    lost: tuple[LostRank, ...] = ()
    if len(behind) < job.spec.ranks:
        lost = tuple(
            LostRank(
                int(k), int(job.rank_host[k]), f"{cause}: rank {k} lags behind", Blame.INFRASTRUCTURE, since, cause
            )
            for k in behind
        )
        by_node: dict[int, list[str]] = {}
        for entry in lost:
            name = draft.fleet.name(int(job.rank_node[entry.rank]))
            by_node.setdefault(draft.fleet.number(name) or 0, []).append(host_id(job.uid, entry.serial))
        for node, items in by_node.items():
            target = f"node:{draft.fleet.name(node)}"
            draft.effect(EffectKind.FENCE_HOSTS, target, job=job.uid, items=tuple(items))
    lose_ranks(draft, job, lost, cause)
    draft.write(r.JoinFailed(job.uid, job.generation, tuple(entry.rank for entry in lost)))
