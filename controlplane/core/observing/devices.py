"""What a node agent says of its accelerators, and what is believed of them."""

from __future__ import annotations

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.fleet import Accelerator
from controlplane.core.health.book import FaultNote, position_of
from controlplane.core.observing.faults import Intake, act, take_in, take_ranks
from controlplane.core.orders import settle_all
from controlplane.core.vocabulary import AcceleratorState, HandlingLevel


def told_in_hello(draft: Draft, event: ev.NodeHello) -> tuple[Intake, tuple[ev.AcceleratorRow, ...]]:
    """What a hello says of health, and its rows with the states that are believed."""
    number = draft.fleet.number(event.node)
    known = draft.fleet.facts[number].accelerators if number is not None else ()
    intake = take_in(draft, event, known)
    return intake, tuple(_believed(intake, row) for row in event.accelerators)


def told_in_report(draft: Draft, event: ev.NodeReport, number: int) -> None:
    """Write down what has changed in a report, and do what its faults ask for."""
    if not event.accelerators and not event.faults and event.unreadable is None:
        return  # most reports tell of processes only
    fleet = draft.fleet
    known = fleet.facts[number].accelerators
    intake = take_in(draft, event, known)
    rows = {row.index: row for row in event.accelerators}
    for position, device in enumerate(known):  # also those whose source or whose other faults changed
        if position not in rows and device.reported:
            rows[position] = ev.AcceleratorRow(position, device.reported, device)
    believed = [_believed(intake, row) for row in rows.values()]
    changed = tuple(
        row
        for row in believed
        if row.index >= len(known)
        or known[row.index] != row.device
        or int(fleet.acc_state[number][row.index]) != row.state
    )
    if changed:
        draft.write(r.AcceleratorsChanged(event.node, changed))
        settle_all(draft)
    act(draft, event.node, number, intake.fresh)
    take_bare_failures(draft, event.node, number, changed, intake)


def take_bare_failures(
    draft: Draft, node: str, number: int, rows: tuple[ev.AcceleratorRow, ...], intake: Intake
) -> None:
    """Ranks on devices that their probe calls FAILED without a code are lost as well; with one, the code has been judged."""
    coded = {position_of(note.entity) for note in intake.standing}
    for row in rows:
        if row.state == AcceleratorState.FAILED and not row.device.fault_code and row.index not in coded:
            note = FaultNote(f"accelerator/{row.index}", "", HandlingLevel.ISOLATE, "its probe calls it FAILED")
            take_ranks(draft, node, number, note)


def _believed(intake: Intake, row: ev.AcceleratorRow) -> ev.AcceleratorRow:
    """The row with the state that is believed; the probe's own word stays with the device."""
    told = row.device  # built anew without `replace`, which is slow: a site that comes back tells of 50,000 devices
    device = Accelerator(
        told.serial, told.pci_address, told.vendor, told.model, told.fault_code, told.fault_message, row.state
    )
    state = intake.state(row.index, row.state)
    return ev.AcceleratorRow(row.index, state, device, row.severity, row.assertion, row.sequence, row.raised_ns)


def rebelieve(draft: Draft, node: str, notes: tuple[FaultNote, ...], judged: tuple[FaultNote, ...]) -> None:
    """Devices whose faults were judged anew get the state that follows. `notes`: all that stand on the node now."""
    number = draft.fleet.index[node]
    devices = draft.fleet.facts[number].accelerators
    intake = Intake(judged, notes, draft.state.health.sources.get(node, ()))
    positions = sorted({position_of(note.entity) for note in judged} - {-1})
    rows = tuple(_row(intake, position, devices) for position in positions if position < len(devices))
    changed = tuple(row for row in rows if int(draft.fleet.acc_state[number][row.index]) != row.state)
    if changed:
        draft.write(r.AcceleratorsChanged(node, changed))
        settle_all(draft)


def _row(intake: Intake, position: int, devices: tuple[Accelerator, ...]) -> ev.AcceleratorRow:
    device = devices[position]
    return ev.AcceleratorRow(position, intake.state(position, device.reported or AcceleratorState.HEALTHY), device)
