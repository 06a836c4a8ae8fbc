"""What health knows of one node as messages for operators: its stay, its faults, the repairs of its parts, what happened to it."""

from __future__ import annotations

from collections.abc import Sequence

from phalanx.v1 import fleet_pb2

from controlplane.core import records as r
from controlplane.core.health.book import position_of, serial_of
from controlplane.core.health.quarantine import waits_for
from controlplane.core.state import State
from controlplane.core.units import to_s
from controlplane.core.vocabulary import HandlingLevel, NodeService
from controlplane.engine.ports import JournalEntry
from controlplane.rpc.ages import age_s
from controlplane.rpc.fault_views import is_unread
from controlplane.rpc.history import decode
from controlplane.rpc.narrate_health import Health, narrate_health

HEALTH_HISTORY: tuple[type[r.Record], ...] = (
    r.NodeQuarantined, r.ActRefused, r.ChecksStarted, r.ChecksFailed, r.TrialStarted, r.TrialPassed, r.NodeReleased,
)  # fmt: skip
"""Records that say how a node left service and came back."""
SHOWN_HISTORY = 12


def health_word(state: State, number: int) -> str:
    """What a node in health's hands waits for, and why it is there; "" when it is in nobody's."""
    name = state.fleet.name(number)
    stay = state.health.stays.get(name)
    if stay is None:
        return ""
    return f"{waits_for(state.health, name, NodeService(int(state.fleet.service[number])))}; {stay.reason}"


def reason(state: State, number: int) -> str:
    """Why a node is not simply well, in a line: health's word, else its hardest fault, else a source that is not read."""
    name = state.fleet.name(number)
    if word := health_word(state, number):
        return word
    notes = [fault.note for fault in state.health.on(name) if fault.note.level > HandlingLevel.IGNORE]
    if notes:
        worst = max(notes, key=lambda note: note.level)
        more = f", and {len(notes) - 1} more" if len(notes) > 1 else ""
        return f"{worst.entity} {worst.code} {worst.level.name}{more}"
    sources = state.health.sources.get(name, ())
    return f"cannot read {', '.join(source.name for source in sources)}" if sources else ""


def stay_message(state: State, number: int, now_ns: int) -> fleet_pb2.NodeStay | None:
    """The node's quarantine or trial; None when it has none."""
    name = state.fleet.name(number)
    stay = state.health.stays.get(name)
    if stay is None:
        return None
    return fleet_pb2.NodeStay(
        reason=stay.reason,
        level=stay.level.name,
        evidence=stay.evidence,
        serials=stay.serials,
        age_s=age_s(stay.since_ns, now_ns),
        tries=stay.tries,
        next_s=max(0.0, to_s(stay.next_ns - now_ns)),
        waits_for=waits_for(state.health, name, NodeService(int(state.fleet.service[number]))),
    )


def fault_messages(state: State, number: int, now_ns: int) -> list[fleet_pb2.NodeFault]:
    """Faults that stand on a node, the hardest first."""
    facts = state.fleet.facts[number]
    notes = sorted((known.note for known in state.health.on(facts.name)), key=lambda note: -note.level)
    return [
        fleet_pb2.NodeFault(
            entity=note.entity,
            code=note.code,
            level=note.level.name,
            reason=note.reason,
            age_s=age_s(note.raised_ns, now_ns),
            vendor=note.vendor,
            severity=note.severity,
            message=note.message,
            serial=serial_of(note.entity, facts.name, facts.accelerators) if position_of(note.entity) >= 0 else "",
            unread=is_unread(state, facts.name, position_of(note.entity)),
            excused=note.excused,
        )
        for note in notes
    ]


def repair_messages(state: State, number: int, now_ns: int) -> list[fleet_pb2.PartRepairs]:
    """Repairs of the node itself and of the parts that it holds now."""
    facts, book = state.fleet.facts[number], state.health
    parts = [(f"node:{facts.name}", "node")]
    parts += [
        (device.serial, f"accelerator/{index}") for index, device in enumerate(facts.accelerators) if device.serial
    ]
    return [
        fleet_pb2.PartRepairs(
            serial=serial, entity=entity, ages_s=[age_s(at_ns, now_ns) for at_ns in reversed(book.repairs[serial])]
        )
        for serial, entity in parts
        if serial in book.repairs
    ]


def history(entries: Sequence[JournalEntry], now_ns: int) -> list[fleet_pb2.NodeHealthEvent]:
    """Records of `HEALTH_HISTORY` as sentences, newest first."""
    found = []
    for entry in reversed(entries):
        record = decode(entry)
        if isinstance(record, Health):
            found.append(
                fleet_pb2.NodeHealthEvent(
                    age_s=age_s(entry.at_ns, now_ns), type=entry.type, message=narrate_health(record)
                )
            )
    return found
