"""What took too long: effects, starts and generations."""

from __future__ import annotations

import numpy as np

from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.draining import missing_processes
from controlplane.core.effects import EffectKind
from controlplane.core.evidence import Facts, Reason
from controlplane.core.jobs import Job, LostRank, host_id
from controlplane.core.observing.losses import lose_ranks
from controlplane.core.settling.words import some
from controlplane.core.units import NS_PER_MS, NS_PER_S, ms
from controlplane.core.vocabulary import Blame, Rung


def effects(draft: Draft) -> None:
    """Effects that nobody answered in time end; a fence is asked for again until its processes are gone.

    After a restart every outstanding effect has the whole time of an effect again: it goes out anew when its agent is back.
    Our own lag moves deadlines by as much.
    """
    usual_ns = ms(draft.policy.effect_ms)
    if draft.now_ns <= draft.soft.trusted_since_ns() + usual_ns:
        return
    late = [effect for effect in draft.state.effects.values() if effect.deadline_ns < draft.now_ns]
    late = [e for e in late if e.deadline_ns + draft.excused_ns(e.deadline_ns - usual_ns) < draft.now_ns]
    looks = tuple(effect.id for effect in late if effect.kind is EffectKind.GATHER_STACKS)
    if looks:  # the job went another way meanwhile: nobody waits for the answers any more
        draft.write(r.EffectsFinished(looks, ok=True))
    late = [effect for effect in late if effect.kind is not EffectKind.GATHER_STACKS]
    if not late:
        return
    draft.write(r.EffectsFinished(tuple(effect.id for effect in late), ok=False, message="no answer", expired=True))
    for effect in late:
        if effect.kind is EffectKind.FENCE_HOSTS:
            draft.effect(effect.kind, effect.target, job=effect.job, items=effect.items, grace_ms=effect.grace_ms)
        elif effect.kind is EffectKind.START_HOSTS:
            draft.settle(effect.job)


def late_starts(draft: Draft, job: Job) -> None:
    """Processes that did not park in time are fenced; their end is counted as a failed start when it is reported."""
    hosts = job.hosts
    coming = hosts.coming
    if not len(coming):
        return
    since_ns = draft.soft.trusted_since_ns()
    limit_ms = (draft.now_ns - since_ns - draft.excused_ns(since_ns)) // 1_000_000
    since_ms = hosts.since_ms[coming]
    excused_ms = draft.soft.excused_ns(ms(1) * since_ms) // 1_000_000
    late = coming[np.minimum(draft.now_ns // 1_000_000 - since_ms - excused_ms, limit_ms) > job.spec.timeouts.start_ms]
    if not len(late):
        return
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


def rung_is_late(draft: Draft, job: Job) -> bool:
    """Whether the deadline of the rung that was decided has passed; our own lag moves it."""
    incident = job.incident
    if incident is None or not incident.deadline_ns or not incident.decided_ns:
        return False
    since = max(incident.decided_ns, draft.soft.trusted_since_ns())
    return draft.now_ns - since - draft.excused_ns(since) > incident.deadline_ns - incident.decided_ns


def late_rung(draft: Draft, job: Job) -> None:
    """A rung whose processes have not parked by its deadline is given up, and the nodes that owe them are left."""
    incident = job.incident
    cell = draft.state.cell()
    if incident is None or incident.placed_ns or not incident.rung or not rung_is_late(draft, job):
        return
    if incident.rung == Rung.SUSPEND or cell is None or not cell.open:
        return
    nodes = tuple(sorted(missing_processes(job, job.rank_node[job.unbound])))
    if not nodes or {*nodes} <= {*incident.spent_nodes}:
        return
    names = some([draft.fleet.name(node) for node in nodes])
    took_s = (draft.now_ns - incident.decided_ns) / NS_PER_S
    text = f"{incident.rung}: no process parked on {names} within {took_s:.3g} s"
    draft.write(r.RungFailed(job.uid, Rung(incident.rung), nodes, text))
    draft.settle(job.uid)


def late_generation(draft: Draft, job: Job) -> None:
    """A generation that does not come to run in time: fence those who lag behind, or roll back when nobody stands out."""
    clock = job.clock
    if not clock.announced_ns or clock.running_ns or job.unbound.any():
        return
    if job.incident and not job.incident.placed_ns:
        return
    since = max(clock.announced_ns, draft.soft.trusted_since_ns())
    limit_ms = job.spec.timeouts.join_ms
    if draft.now_ns - since - draft.excused_ns(since) <= ms(limit_ms):
        if not rung_is_late(draft, job):
            return
        limit_ms = (draft.now_ns - since) // NS_PER_MS
    taking_part = np.flatnonzero(job.present)
    reached = (job.rank_times[taking_part] > 0).sum(axis=1)
    behind = taking_part[reached == reached.min()]
    cause = f"generation {job.generation} did not come to run in {limit_ms / 1000:g} s"
    lost: tuple[LostRank, ...] = ()
    if len(behind) < len(taking_part):
        lost = tuple(
            LostRank(
                k,
                serial,
                f"{cause}: rank {k} lags behind",
                Blame.INFRASTRUCTURE,
                since,
                cause,
                consequence=True,
                facts=Facts(Reason.LATE),
            )
            for k, serial in zip(behind.tolist(), job.rank_host[behind].tolist(), strict=True)
        )
        by_node: dict[int, list[str]] = {}
        for entry in lost:
            name = draft.fleet.name(int(job.rank_node[entry.rank]))
            by_node.setdefault(draft.fleet.number(name) or 0, []).append(host_id(job.uid, entry.serial))
        for node, items in by_node.items():
            target = f"node:{draft.fleet.name(node)}"
            draft.effect(EffectKind.FENCE_HOSTS, target, job=job.uid, items=tuple(items))
    lose_ranks(draft, job, lost, cause, Reason.LATE)
    draft.write(r.JoinFailed(job.uid, job.generation, tuple(entry.rank for entry in lost)))
