"""Silence and witnesses: the verdict on every node, and what follows from DEAD."""

from __future__ import annotations

import numpy as np

from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.health.suspicion import GROUND_TEXT, Ground, Sight, judge
from controlplane.core.jobs import NONE, LostRank
from controlplane.core.observing.losses import lose_ranks
from controlplane.core.ranges import cover
from controlplane.core.units import NS_PER_S, ms, seconds
from controlplane.core.vocabulary import Blame, JobState, NodeLiveness, RankState


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


def liveness(draft: Draft) -> None:
    """Judge every node by its silence and its witnesses."""
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
    names = {draft.fleet.name(number) for number in rows.tolist()}
    beats = draft.soft.last_beat_ns(draft.fleet.size)
    for job in draft.state.active_jobs():
        hosts = job.hosts
        here = np.isin(hosts.node, rows) & hosts.live()
        if not here.any():
            draft.settle(job.uid)
            continue
        lost = []
        held = here & (hosts.rank != NONE)
        for serial, node, rank in zip(
            hosts.serial[held].tolist(), hosts.node[held].tolist(), hosts.rank[held].tolist(), strict=True
        ):
            text = f"node {draft.fleet.name(node)} is DEAD: {reason}"
            lost.append(LostRank(rank, serial, text, Blame.INFRASTRUCTURE, int(beats[node]) or draft.now_ns, text))
        serials = cover(hosts.serial[hosts.live()], here[hosts.live()])
        draft.write(r.HostsLost(job.uid, serials, draft.now_ns))
        if job.ending:  # keeps its rank table; LOST processes of DEAD nodes do not delay the end
            draft.settle(job.uid)
            continue
        if lost:
            lose_ranks(draft, job, tuple(lost), lost[0].cause)
        draft.write(r.HostsForgotten(job.uid, tuple(hosts.serial[here].tolist())))
        draft.settle(job.uid)
    ids = tuple(effect.id for effect in draft.state.effects.values() if effect.node in names)
    if ids:
        draft.write(r.EffectsFinished(ids, ok=False, message="the node is DEAD", expired=True))
