"""Silence and witnesses: the verdict on every node, and what follows from DEAD."""

from __future__ import annotations

import numpy as np

from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.evidence import Facts, Reason
from controlplane.core.health import distrust
from controlplane.core.health.suspicion import GROUND_TEXT, WITNESSES, Belief, Ground, Sight, judge
from controlplane.core.jobs import NONE, LostRank
from controlplane.core.observing.losses import lose_ranks
from controlplane.core.ranges import cover
from controlplane.core.units import NS_PER_MS, NS_PER_S, ms, seconds
from controlplane.core.vocabulary import Blame, JobState, NodeLiveness, RankState


def _sight(draft: Draft, *, distrusted: bool) -> Sight:
    fleet, soft = draft.fleet, draft.soft
    trusted = soft.trusted_since_ns()
    heard = draft.heard_ns()
    silence = draft.silence_s(heard)
    stopped = np.zeros(fleet.size, dtype=np.bool_)
    stepping = np.zeros(fleet.size, dtype=np.bool_)
    outlived = np.zeros(fleet.size, dtype=np.bool_)
    limits = draft.policy.suspicion
    lease = limits.lease_s
    outlived_raylet = (heard > trusted) & (fleet.cell_left_ns < heard - seconds(limits.domain_within_s))
    member = fleet.cell_member | ~fleet.cell_known | outlived_raylet
    reset = ~fleet.session & (heard > trusted) & (soft.excused_ns(heard) == 0)
    suspects = np.flatnonzero(silence > lease)
    for job in draft.state.active_jobs() if len(suspects) else ():
        if job.state is not JobState.RUNNING:
            continue
        held = job.per_node()
        here = suspects[suspects < len(held)]
        here = here[held[here] > 0]
        if not len(here):
            continue
        _, moved_ns = draft.soft.progress(job.uid)
        since_ns = max(moved_ns, trusted, job.clock.running_ns)
        excused_since_ns = draft.excused_ns(since_ns)
        quiet_s = (draft.now_ns - since_ns - excused_since_ns) / NS_PER_S
        limit_s = max(lease, limits.slow_steps * soft.step_time_ns(job.uid) / NS_PER_S)
        told = (_witnessed_ns(held, silence, heard, lease) - since_ns - excused_since_ns) / NS_PER_S > limit_s
        # Who was still heard when they had stopped long ago did not stop them by dying.
        stopped[here] |= told & (heard[here] - since_ns <= seconds(limit_s))
        stepping[here] |= (moved_ns > heard[here] + seconds(lease / 2)) & (quiet_s < limit_s)
        outlived[here] |= moved_ns > heard[here] + seconds(2 * lease)
    halted = _halted(draft, np.flatnonzero(reset & ~member))
    return Sight(
        fleet.liveness, fleet.session, silence, member, stopped, stepping, reset, halted, _unlinked(draft, heard),
        fleet.path_broken, heard > trusted, outlived, _alone_s(draft), fleet.domains, distrusted,
    )  # fmt: skip


def _alone_s(draft: Draft) -> np.ndarray:
    """See `Sight`."""
    left = draft.state.health.alone
    found = np.full(draft.fleet.size, np.inf)
    if left:
        rows = [draft.fleet.index[name] for name in left]
        since_ns = np.array(list(left.values()), dtype=np.int64)
        found[rows] = (draft.now_ns - since_ns - draft.soft.excused_ns(since_ns)) / NS_PER_S
    return found


def _witnessed_ns(held: np.ndarray, silence_s: np.ndarray, heard_ns: np.ndarray, lease_s: float) -> int:
    """Until when somebody could have told of steps of a job: the last beat of its nodes that are not silent, Unix ns.

    Steps are told by agents. Whose beat was the last before the paths of all of them broke is no witness of what came after;
    when every node is silent nobody is, and it is 0. `held`: see `Job.per_node`.
    """
    size = len(held)
    speaking = (held > 0) & (silence_s[:size] <= lease_s)
    return int(heard_ns[:size].max(where=speaking, initial=0))


def _questionable(draft: Draft) -> np.ndarray:
    """Mask over nodes on which `judge` could conclude anything: those that are not heard, and those of which something else
    is believed than that all is well. On a quiet site there are none, and a tick costs nearly nothing."""
    fleet, limits = draft.fleet, draft.policy.suspicion
    silent = draft.silence_s(draft.heard_ns()) > min(limits.brief_s, limits.lease_s)
    odd = (fleet.liveness != NodeLiveness.ALIVE) | fleet.path_broken
    mask: np.ndarray = (silent | odd) & (fleet.liveness != NodeLiveness.DEAD)
    return mask


def _unlinked(draft: Draft, heard: np.ndarray) -> np.ndarray:
    """Mask over nodes to which enough ALIVE nodes say that their links are broken, since the node was heard last or shortly
    before. A witness has spoken since: one that fell silent with the node may have lost its own links. `heard`: when each was
    heard last, Unix ns."""
    fleet = draft.fleet
    accused = np.zeros(fleet.size, dtype=np.int64)
    lease_ns = seconds(draft.policy.suspicion.lease_s)
    for witness, links in draft.state.health.links.items():
        number = fleet.number(witness)
        if number is not None and fleet.liveness[number] == NodeLiveness.ALIVE and fleet.session[number]:
            rows = np.array([fleet.index[name] for name in links.broken if name in fleet.index], dtype=np.int64)
            told = (links.at_ns > heard[rows] - lease_ns) & (heard[number] > heard[rows] + lease_ns // 2)
            accused[rows[told]] += 1
    mask: np.ndarray = accused >= draft.policy.suspicion.link_witnesses
    return mask


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


def trust(draft: Draft) -> bool:
    """Whether silence may convict now; written down when that changes."""
    found = distrust.reasons(draft.soft.vitals(), draft.policy.distrust, draft.now_ns)
    known = draft.state.health.degraded
    if found and not known:
        draft.write(r.DetectorDegraded(found))
    elif known and not found:
        draft.write(r.DetectorRestored((draft.now_ns - draft.state.health.degraded_since_ns) // NS_PER_MS))
    return not found


def liveness(draft: Draft) -> None:
    """Judge every node by its silence and its witnesses."""
    trusted = trust(draft)
    if not draft.fleet.size or not _questionable(draft).any():
        return
    belief = judge(_sight(draft, distrusted=not trusted), draft.policy.suspicion)
    for number in np.unique(belief.ground).tolist():
        if number != Ground.NONE:
            _conclude(draft, belief, Ground(number))
    if belief.ground.any():
        for job in draft.state.active_jobs():
            draft.settle(job.uid)


def _conclude(draft: Draft, belief: Belief, ground: Ground) -> None:
    """Write down what one ground says of all nodes that it concerns."""
    rows = np.flatnonzero(belief.ground == ground)
    names = tuple(draft.fleet.name(int(n)) for n in rows)
    verdict = NodeLiveness(int(belief.liveness[rows[0]]))
    broken = bool(belief.path_broken[rows[0]])
    text = GROUND_TEXT[ground]
    record = draft.write(r.LivenessChanged(names, verdict, text, WITNESSES[ground], broken))
    if verdict is NodeLiveness.DEAD:
        _bury(draft, rows, text, record)


def _bury(draft: Draft, rows: np.ndarray, reason: str, record: int) -> None:
    """Processes on DEAD nodes are LOST; the ranks that they held open one incident per job. `record`: journal revision of
    the verdict."""
    names = {draft.fleet.name(number) for number in rows.tolist()}
    told = Facts(Reason.NODE_DEAD, record=record)
    dead = np.zeros(draft.fleet.size, dtype=np.bool_)
    dead[rows] = True
    beats = draft.soft.last_beat_ns(draft.fleet.size)
    for job in draft.state.active_jobs():
        hosts = job.hosts
        here = dead[hosts.node] & hosts.live()
        if not here.any():
            draft.settle(job.uid)
            continue
        lost = []
        held = here & (hosts.rank != NONE)
        for serial, node, rank in zip(
            hosts.serial[held].tolist(), hosts.node[held].tolist(), hosts.rank[held].tolist(), strict=True
        ):
            text = f"node {draft.fleet.name(node)} is DEAD: {reason}"
            lost.append(
                LostRank(rank, serial, text, Blame.INFRASTRUCTURE, int(beats[node]) or draft.now_ns, text, facts=told)
            )
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
