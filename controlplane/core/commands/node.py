"""Cordon, drain and uncordon nodes; faults of simulated devices."""

from __future__ import annotations

from typing import Any

import numpy as np

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.audit import Change
from controlplane.core.draft import Accepted, Draft, Refusal
from controlplane.core.effects import EffectKind
from controlplane.core.health.budget import refusal
from controlplane.core.health.quarantine import HEALTH
from controlplane.core.observing.hosts import FENCING
from controlplane.core.orders import settle_all
from controlplane.core.vocabulary import NODE_SERVICE, NodeLiveness, NodeService

OPERATOR = "operator"
"""Owner of a cordon where nobody is named."""


def find(draft: Draft, name: str) -> int | Refusal:
    """Number of a node."""
    number = draft.fleet.number(name)
    if number is not None:
        return number
    known = ", ".join(sorted(draft.fleet.index)[:5]) or "none"
    text = f"no node is named {name} (known: {known}...): `phalanx get nodes` lists them"
    return Refusal("not_found", "NO_SUCH_NODE", text)


def _owner(owner: str, *, taking: bool = False) -> str | Refusal:
    """Whose reason is meant. `taking`: it is taken back, which of health's an operator may do."""
    if owner == HEALTH and not taking:
        text = f"{HEALTH} is the controller's own: it says by itself when a node is not well; name yourself"
        return Refusal("conflict", "NOT_YOURS", text)
    if owner == FENCING:
        text = (
            f"{FENCING} is the controller's own cordon: it goes by itself when no process of an old generation is left"
        )
        return Refusal("conflict", "NOT_YOURS", text)
    return owner or OPERATOR


def _cordons(draft: Draft, number: int) -> dict[str, Any]:
    """The cordons of a node, for an audit record."""
    return {
        cordon.owner: {"reason": cordon.reason, "drain": cordon.drain} for cordon in draft.fleet.facts[number].cordons
    }


def cordon(draft: Draft, event: ev.CordonNode | ev.DrainNode) -> Accepted | Refusal:
    """Add an owned reason for which the node takes no new work; draining, what runs there moves elsewhere as well."""
    number, owner = find(draft, event.node), _owner(event.owner)
    if isinstance(number, Refusal):
        return number
    if isinstance(owner, Refusal):
        return owner
    drain = isinstance(event, ev.DrainNode)
    jobs = _jobs_on(draft, number) if drain else []
    if jobs and draft.fleet.serving()[number]:
        over = refusal(draft.fleet, number, draft.state.acts, draft.policy.actions, draft.now_ns)
        if over:
            return Refusal("conflict", "BUDGET", over)
    draft.write(r.NodeCordoned(event.node, owner, event.reason, drain=drain))
    settle_all(draft)
    before = _cordons(draft, number)
    after = {**before, owner: {"reason": event.reason, "drain": drain}}
    fields = {"jobs": " ".join(jobs)} if drain else {}
    return Accepted(Change(f"node/{event.node}", {"cordons": before}, {"cordons": after}), fields)


def _jobs_on(draft: Draft, number: int) -> list[str]:
    """Names of jobs with ranks on a node."""
    return [job.name for job in draft.state.active_jobs() if job.placed and bool(np.any(job.rank_node == number))]


def uncordon(draft: Draft, event: ev.UncordonNode) -> Accepted | Refusal:
    """Remove one owner's reason; this also ends a drain of that owner. Health's own: an operator's word ends a quarantine."""
    number, owner = find(draft, event.node), _owner(event.owner, taking=True)
    if isinstance(number, Refusal):
        return number
    if isinstance(owner, Refusal):
        return owner
    before = _cordons(draft, number)
    if owner not in before:
        text = f"{event.node} has no cordon of {owner}" + (f"; its owners are {', '.join(before)}" if before else "")
        return Refusal("conflict", "NO_SUCH_CORDON", text)
    if owner == HEALTH and event.node in draft.state.health.stays:
        draft.write(r.NodeReleased(event.node, "an operator takes it back into service"))
    else:
        draft.write(r.NodeUncordoned(event.node, owner))
    settle_all(draft)
    after = {name: facts for name, facts in before.items() if name != owner}
    return Accepted(Change(f"node/{event.node}", {"cordons": before}, {"cordons": after}))


def retire(draft: Draft, event: ev.RetireNode) -> Accepted | Refusal:
    """Take a node out for good. Nothing may be left there: a drain comes first, unless it is idle or DEAD."""
    number = find(draft, event.node)
    if isinstance(number, Refusal):
        return number
    service = NodeService(int(draft.fleet.service[number]))
    if service is NodeService.RETIRED:
        return Refusal("conflict", "RETIRED", f"{event.node} is retired already")
    if NodeService.RETIRED not in NODE_SERVICE[service]:
        text = f"{event.node} is {service.name}, and is retired when it is empty: `phalanx drain {event.node} --wait` first"
        return Refusal("conflict", "NOT_EMPTY", text)
    users = _users(draft, number)
    if users:
        text = f"{event.node} holds {users}: `phalanx drain {event.node} --wait` first"
        return Refusal("conflict", "NOT_EMPTY", text)
    before = {"service": service.name, "cordons": _cordons(draft, number)}
    draft.write(r.NodeRetired(event.node, event.reason))
    ids = tuple(effect.id for effect in draft.state.effects.values() if effect.node == event.node)
    if ids:
        draft.write(r.EffectsFinished(ids, ok=False, message="the node is retired", expired=True))
    settle_all(draft)
    return Accepted(Change(f"node/{event.node}", before, {"service": NodeService.RETIRED.name, "reason": event.reason}))


def _users(draft: Draft, number: int) -> str:
    """What is left on a node that somebody needs; "" when nothing is. Of a DEAD node no process is left."""
    jobs = draft.state.active_jobs()
    ranks = [job.name for job in jobs if job.placed and bool((job.rank_node[job.present] == number).any())]
    if ranks:
        return f"ranks of {', '.join(ranks)}"
    dead = draft.fleet.liveness[number] == NodeLiveness.DEAD
    processes = [job.name for job in jobs if bool((~job.hosts.gone() & (job.hosts.node == number)).any())]
    if processes and not dead:
        return f"processes of {', '.join(processes)}"
    spare = [job.name for job in jobs if number in job.spare_nodes]
    return f"the place of a spare of {', '.join(spare)}" if spare else ""


def inject(draft: Draft, event: ev.InjectFault) -> Accepted | Refusal:
    """Make a simulated accelerator report a fault."""
    number = find(draft, event.node)
    if isinstance(number, Refusal):
        return number
    devices = draft.fleet.facts[number].accelerators
    if event.accelerator >= len(devices):
        text = f"{event.node} has {len(devices)} accelerators, numbered from 0: there is no {event.accelerator}"
        return Refusal("invalid", "NO_SUCH_ACCELERATOR", text)
    if draft.fleet.liveness[number] == NodeLiveness.DEAD:
        return Refusal("conflict", "NODE_DEAD", f"{event.node} is DEAD: nobody there can obey")
    device = devices[event.accelerator]
    if device.vendor != "simulated":
        text = f"accelerator {event.accelerator} of {event.node} is real: faults are injected into simulated ones only"
        return Refusal("invalid", "NOT_SIMULATED", text)
    items = (str(event.accelerator), event.code, event.message)
    draft.effect(EffectKind.INJECT_FAULT, f"node:{event.node}", items=items)
    entity = f"accelerator/{event.accelerator}"
    standing = [fault.note.code for fault in draft.state.health.on(event.node) if fault.note.entity == entity]
    before = {"accelerator": event.accelerator, "fault": standing[0] if standing else device.fault_code}
    return Accepted(Change(f"node/{event.node}", before, {"accelerator": event.accelerator, "fault": event.code}))
