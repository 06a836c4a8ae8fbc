"""Faults and fault tables as messages for operators: what stands, what the journal tells, and why a code has its level."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from phalanx.v1 import fleet_pb2

from controlplane.core import records as r
from controlplane.core.health import shadow
from controlplane.core.health.book import FaultNote, StandingFault, position_of, serial_of
from controlplane.core.health.catalogue import Catalogue, FaultRule
from controlplane.core.state import State
from controlplane.core.units import to_s
from controlplane.core.vocabulary import Assertion
from controlplane.engine.ports import JournalEntry
from controlplane.rpc.ages import age_s
from controlplane.rpc.codec import rfc3339
from controlplane.rpc.history import decode

MAX_STANDING = 5_000
"""Rows of one answer; the total is told beside them."""

MS_PER_S = 1_000


@dataclass(frozen=True, slots=True)
class _Seen:
    """A fault on a node, and when its record became durable, Unix ns. `revision` 0: it stands."""

    node: str
    note: FaultNote
    received_ns: int
    revision: int = 0


def standing(state: State, wanted: frozenset[str], now_ns: int, limit: int = 0) -> tuple[list[fleet_pb2.Fault], int]:
    """(faults that stand, the hardest level and then the newest first; how many there are). `wanted` empty: of all nodes."""
    book = state.health
    found = [
        (name, fault)
        for name, faults in book.standing.items()
        if not wanted or name in wanted
        for fault in faults
    ]  # fmt: skip
    found.sort(key=lambda pair: (-pair[1].note.level, -pair[1].received_ns))
    most = min(limit or MAX_STANDING, MAX_STANDING)
    shown = [_message(state, _Seen(name, fault.note, fault.received_ns), now_ns) for name, fault in found[:most]]
    return shown, len(found)


def recent(
    state: State, entries: Sequence[JournalEntry], wanted: frozenset[str], limit: int, now_ns: int
) -> list[fleet_pb2.Fault]:
    """Faults of these `FaultsReported` records, newest first, at most `limit`; not those that stand since."""
    found: list[fleet_pb2.Fault] = []
    for entry in reversed(entries):
        for seen in _told(entry):
            if wanted and seen.node not in wanted:
                continue
            if len(found) >= limit:
                return found
            if not _still_stands(seen, state.health.on(seen.node)):
                found.append(_message(state, seen, now_ns))
    return found


def _told(entry: JournalEntry) -> Iterator[_Seen]:
    record = decode(entry)
    if isinstance(record, r.FaultsReported):
        yield from (_Seen(record.node, note, entry.at_ns, entry.revision) for note in record.notes)


def _still_stands(seen: _Seen, faults: Iterable[StandingFault]) -> bool:
    key = (seen.note.entity, seen.note.code, seen.note.raised_ns)
    if seen.note.assertion is not Assertion.OCCURRED:
        return False
    return any((fault.note.entity, fault.note.code, fault.note.raised_ns) == key for fault in faults)


def _message(state: State, seen: _Seen, now_ns: int) -> fleet_pb2.Fault:
    note, fleet = seen.note, state.fleet
    number = fleet.number(seen.node)
    facts = fleet.facts[number] if number is not None else None
    position = position_of(note.entity)
    has_serial = facts is not None and 0 <= position < len(facts.accelerators)
    begins = note.assertion is not Assertion.RECOVERED
    return fleet_pb2.Fault(
        node=seen.node,
        entity=note.entity,
        serial=serial_of(note.entity, seen.node, facts.accelerators) if facts is not None and has_serial else "",
        vendor=note.vendor,
        code=note.code,
        severity=note.severity,
        level=note.level.name,
        reason=note.reason,
        message=note.message,
        assertion=note.assertion.value,
        raised_at=rfc3339(note.raised_ns),
        received_at=rfc3339(seen.received_ns),
        detection_s=max(0.0, to_s(seen.received_ns - note.raised_ns)) if begins and note.raised_ns else 0.0,
        unread=not seen.revision and is_unread(state, seen.node, position),
        excused=note.excused,
        labels=dict(facts.labels) if facts is not None else {},
        revision=seen.revision,
        until=rfc3339(note.until_ns),
        age_s=age_s(seen.received_ns, now_ns),
    )


def is_unread(state: State, node: str, position: int) -> bool:
    """Whether a source that speaks for the part at this position (-1: the node) cannot be read."""
    sources = state.health.sources.get(node, ())
    return any(not source.accelerators or position in source.accelerators for source in sources)


def rules(
    state: State, catalogue: Catalogue, vendor: str, code: str, now_ns: int
) -> tuple[list[fleet_pb2.FaultRule], list[fleet_pb2.FaultRelation]]:
    """Rules and relations of the tables in force, of one vendor or code where one is named, by vendor and code."""
    hits = {(one.vendor, one.code): one for one in shadow.measured(state.shadows, now_ns)}
    wanted = [
        rule
        for (its_vendor, its_code), rule in sorted(catalogue.rules.items())
        if vendor in ("", its_vendor) and code.upper() in ("", its_code.upper())
    ]
    relations = [
        fleet_pb2.FaultRelation(
            vendor=item.vendor, codes=item.codes, window_s=item.window_ms / MS_PER_S, level=item.level.name, text=item.text
        )
        for item in catalogue.relations
        if vendor in ("", item.vendor) and (not code or code.upper() in map(str.upper, item.codes))
    ]  # fmt: skip
    return [_rule(rule, hits.get((rule.vendor, rule.code))) for rule in wanted], relations


def _rule(rule: FaultRule, measured: shadow.Measured | None) -> fleet_pb2.FaultRule:
    limit = rule.frequency
    return fleet_pb2.FaultRule(
        vendor=rule.vendor,
        code=rule.code,
        level=rule.level.name,
        text=rule.text,
        debounce_s=rule.debounce_ms / MS_PER_S,
        count=limit.count if limit else 0,
        window_s=limit.window_ms / MS_PER_S if limit else 0.0,
        release_s=limit.release_ms / MS_PER_S if limit else 0.0,
        raised_level=limit.level.name if limit else "",
        origin=rule.origin,
        shadow=rule.shadow,
        confirmed=measured.confirmed if measured else 0,
        refuted=measured.refuted if measured else 0,
        open=measured.open_ if measured else 0,
    )
