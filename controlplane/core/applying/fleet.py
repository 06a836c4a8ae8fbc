"""Records about nodes, devices, cells and the controller itself into state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from controlplane.core import records as r
from controlplane.core.columns import put
from controlplane.core.fleet import Accelerator, Cordon, Fleet, NodeFacts
from controlplane.core.health.budget import Act
from controlplane.core.state import MAX_ACTS, State
from controlplane.core.vocabulary import (
    NODE_LIVENESS,
    NODE_SERVICE,
    AcceleratorState,
    IllegalTransition,
    NodeLiveness,
    NodeService,
)


def node(state: State, name: str) -> tuple[Fleet, int]:
    """The fleet, safe to change, and the number of a node."""
    fleet = state.own_fleet()
    return fleet, fleet.index[name]


def set_service(fleet: Fleet, number: int, service: NodeService) -> None:
    """Move a node to another service state.

    Raises:
        IllegalTransition: the table does not allow it.
    """
    before = NodeService(int(fleet.service[number]))
    if before is service:
        return
    if service not in NODE_SERVICE[before]:
        raise IllegalTransition(f"node {fleet.name(number)}: {before.name} to {service.name}")
    fleet.service = put(fleet.service, number, service)


def note_act(state: State, number: int, at_ns: int, *, drain: bool) -> None:
    """A node whose ranks are asked to leave is an act that the budget counts; asked again it is none."""
    if not drain or not state.fleet.serving()[number]:
        return
    if any(job.placed and (job.rank_node == number).any() for job in state.active_jobs()):
        state.acts = (*state.acts, Act(number, at_ns))[-MAX_ACTS:]


def cordons(state: State, fleet: Fleet, number: int, cordons: tuple[Cordon, ...]) -> None:
    """The reasons of a node; with the first one that drains it leaves service, with the last one it comes back."""
    fleet.set_facts(number, replace(fleet.facts[number], cordons=cordons))
    service = NodeService(int(fleet.service[number]))
    drains = any(cordon.drain for cordon in cordons)
    if drains and service in (NodeService.IN_SERVICE, NodeService.PROBATION):
        set_service(fleet, number, NodeService.DRAINING)
    elif not drains and service in (NodeService.DRAINING, NodeService.OUT_OF_SERVICE):
        on_trial = fleet.name(number) in state.health.stays
        set_service(fleet, number, NodeService.PROBATION if on_trial else NodeService.IN_SERVICE)


def retired(state: State, record: r.NodeRetired) -> None:
    """A node is none of the site's any more: its devices and its place in racks and domains count nowhere."""
    fleet, number = node(state, record.node)
    set_service(fleet, number, NodeService.RETIRED)
    fleet.set_facts(number, replace(fleet.facts[number], labels=(), cordons=()))
    fleet.set_accelerators(number, (), ())
    for column, value in (
        ("liveness", NodeLiveness.DEAD),
        ("session", False),
        ("cell_member", False),
        ("path_broken", False),
    ):
        setattr(fleet, column, put(getattr(fleet, column), number, value))
    state.own_health().forget(record.node)


def journal_restored(state: State, record: r.JournalRestored) -> None:
    """Numbers that agents may have seen are skipped."""
    state.next_job += record.skipped
    state.next_effect += record.skipped
    for job in state.active_jobs():
        changed = state.own_job(job.uid)
        changed.next_host += record.skipped
        changed.skipped_generations += record.skipped


def controller_started(state: State, record: r.ControllerStarted) -> None:
    """A new leadership: sessions of the former one are gone."""
    if record.epoch <= state.epoch:
        raise IllegalTransition(f"epoch {record.epoch} after {state.epoch}")
    state.epoch = record.epoch
    fleet = state.own_fleet()
    fleet.session = np.zeros(fleet.size, dtype=np.bool_)
    state.cells = {name: replace(cell, open=False) for name, cell in state.cells.items()}


def node_registered(state: State, record: r.NodeRegistered) -> None:
    """A node says what it is, for the first time or anew."""
    fleet = state.own_fleet()
    number = fleet.number(record.node)
    if number is None:
        number = fleet.add(NodeFacts(record.node, labels=record.labels))
    facts = replace(
        fleet.facts[number],
        boot_id=record.boot_id,
        address=record.address,
        version=record.version,
        labels=record.labels,
        accelerators=record.accelerators,
    )
    fleet.set_facts(number, facts)
    fleet.set_accelerators(number, record.accelerators, record.states)
    if fleet.service[number] == NodeService.JOINING:
        fleet.service = put(fleet.service, number, NodeService.IN_SERVICE)


def nodes_registered(state: State, record: r.NodesRegistered) -> None:
    """New nodes in one go, with their sessions: what a `NodeRegistered` and an opened session each would come to."""
    fleet = state.own_fleet()
    first, count = fleet.size, len(record.nodes)
    fleet.extend(
        tuple(
            NodeFacts(n.node, n.boot_id, n.address, n.version, n.labels, accelerators=n.accelerators)
            for n in record.nodes
        )
    )
    fleet.widen(max((len(n.accelerators) for n in record.nodes), default=0))
    rows = [(*n.states, *(0,) * (fleet.acc_state.shape[1] - len(n.states))) for n in record.nodes]
    new = slice(first, first + count)
    fleet.acc_state = put(fleet.acc_state, new, rows)
    fleet.service = put(fleet.service, new, NodeService.IN_SERVICE)
    fleet.session = put(fleet.session, new, True)


def liveness(state: State, record: r.LivenessChanged, at_ns: int) -> None:
    """What is believed of nodes."""
    fleet = state.own_fleet()
    for name in record.nodes:
        number = fleet.index[name]
        before = NodeLiveness(int(fleet.liveness[number]))
        fleet.path_broken = put(fleet.path_broken, number, record.path_broken)
        if before is record.liveness:
            continue
        if record.liveness not in NODE_LIVENESS[before]:
            raise IllegalTransition(f"node {name}: {before.name} to {record.liveness.name}")
        fleet.liveness = put(fleet.liveness, number, record.liveness)
        if before is NodeLiveness.UNKNOWN and record.liveness is NodeLiveness.SUSPECT:
            state.own_health().alone[name] = at_ns
        elif name in state.health.alone:
            state.own_health().alone.pop(name)
        if record.liveness is NodeLiveness.DEAD and fleet.service[number] == NodeService.IN_SERVICE:
            state.note_failures(1)
        if record.liveness is NodeLiveness.DEAD:
            fleet.session = put(fleet.session, number, False)


def accelerators(state: State, record: r.AcceleratorsChanged) -> None:
    """Devices of a node have changed, or are told of for the first time."""
    fleet, number = node(state, record.node)
    devices = list(fleet.facts[number].accelerators)
    fleet.widen(max((change.index + 1 for change in record.rows), default=0))
    row = fleet.acc_state[number].copy()
    for change in record.rows:
        while len(devices) <= change.index:
            devices.append(Accelerator(""))
        devices[change.index] = change.device
        row[change.index] = change.state
    fleet.set_facts(number, replace(fleet.facts[number], accelerators=tuple(devices)))
    was_whole = not (fleet.acc_state[number] == AcceleratorState.FAILED).any()
    if was_whole and (row == AcceleratorState.FAILED).any() and fleet.service[number] == NodeService.IN_SERVICE:
        state.note_failures(1)
    fleet.acc_state = put(fleet.acc_state, number, row)


def membership(state: State, record: r.CellMembershipChanged, at_ns: int) -> None:
    """Raylets that joined or left the cell."""
    fleet = state.own_fleet()
    for names, member in ((record.joined, True), (record.left, False)):
        rows = [fleet.index[name] for name in names if name in fleet.index]
        fleet.cell_member = put(fleet.cell_member, rows, member)
        fleet.cell_left_ns = put(fleet.cell_left_ns, rows, 0 if member else at_ns)
    fleet.cell_known = fleet.cell_known | fleet.cell_member
