"""Records about faults, sources, quarantines and the detector into state."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar, assert_never

from controlplane.core import records as r
from controlplane.core.applying.fleet import node, set_service
from controlplane.core.fleet import Cordon, Fleet
from controlplane.core.health.book import (
    MAX_COUNTED,
    MAX_RECENT,
    MAX_REPAIRS,
    MAX_SIGHTINGS,
    FaultNote,
    HealthBook,
    Links,
    Recent,
    StandingFault,
    Stay,
    position_of,
    serial_of,
)
from controlplane.core.health.budget import Act
from controlplane.core.health.canaries import Canary, Outcome
from controlplane.core.health.quarantine import HEALTH
from controlplane.core.state import MAX_ACTS, State
from controlplane.core.vocabulary import Assertion, NodeService

T = TypeVar("T")

Health = (
    r.DetectorDegraded | r.DetectorRestored | r.LinksReported | r.FaultsReported | r.FaultsJudged | r.SourcesReported
    | r.NodeQuarantined | r.ActRefused | r.ChecksStarted | r.ChecksFailed | r.TrialStarted | r.TrialPassed | r.NodeReleased
)  # fmt: skip
"""Records that only the health part reads."""


def health(state: State, record: Health, at_ns: int) -> None:
    """What the health part remembers."""
    book = state.own_health()
    match record:
        case r.DetectorDegraded():
            book.degraded, book.degraded_since_ns = record.reasons, at_ns
        case r.DetectorRestored():
            book.degraded, book.degraded_since_ns = (), 0
        case r.LinksReported():
            book.links.pop(record.node, None)
            if record.broken:
                book.links[record.node] = Links(record.broken, at_ns)
        case r.SourcesReported():
            _keep(book.sources, record.node, record.unreadable)
        case r.FaultsReported():
            _sighted(state, book, record, at_ns)
            _stand(book, record.node, record.notes, at_ns)
        case r.FaultsJudged():
            _stand(book, record.node, record.notes, at_ns)
        case r.ActRefused():
            book.refused[record.node] = at_ns
        case (
            r.NodeQuarantined() | r.ChecksStarted() | r.ChecksFailed() | r.TrialStarted() | r.TrialPassed()
            | r.NodeReleased()
        ):  # fmt: skip
            _stay(state, book, record, at_ns)
        case _:
            assert_never(record)


def _keep(table: dict[str, tuple[T, ...]], key: str, values: tuple[T, ...]) -> None:
    if values:
        table[key] = values
    else:
        table.pop(key, None)


def _bounded(table: dict[str, T], most: int) -> None:
    while len(table) > most:
        table.pop(next(iter(table)))


def _sighted(state: State, book: HealthBook, record: r.FaultsReported, at_ns: int) -> None:
    """Occurrences are counted per part, and the newest per code."""
    fleet, name = state.fleet, record.node
    number = fleet.number(name)
    for note in record.notes:
        if note.assertion is Assertion.RECOVERED:
            continue
        serial = serial_of(note.entity, name, fleet.facts[number].accelerators if number is not None else ())
        key = f"{serial}/{note.code}"
        seen = (*book.sightings.pop(key, ()), note.raised_ns or at_ns)
        book.sightings[key] = tuple(sorted(seen))[-MAX_SIGHTINGS:]
        if (position := position_of(note.entity)) >= 0:
            recent = (*book.recent.get(note.code, ()), Recent(name, position, at_ns))
            book.recent[note.code] = recent[-MAX_RECENT:]
    _bounded(book.sightings, MAX_COUNTED)


def _stand(book: HealthBook, name: str, notes: tuple[FaultNote, ...], at_ns: int) -> None:
    """What stands on a node from now on. What happened once, and what recovered, stands only while it is held."""
    standing = {(fault.note.entity, fault.note.code): fault for fault in book.on(name)}
    for note in notes:
        known = standing.pop((note.entity, note.code), None)
        if note.assertion is Assertion.OCCURRED or note.held:
            standing[(note.entity, note.code)] = StandingFault(note, known.received_ns if known else at_ns)
    book.stand(name, tuple(standing.values()))


Stays = r.NodeQuarantined | r.ChecksStarted | r.ChecksFailed | r.TrialStarted | r.TrialPassed | r.NodeReleased


def _stay(state: State, book: HealthBook, record: Stays, at_ns: int) -> None:
    name = record.node
    fleet, number = node(state, name)
    match record:
        case r.NodeQuarantined():
            if record.disturbs:
                state.acts = (*state.acts, Act(number, at_ns))[-MAX_ACTS:]
            book.stays[name] = Stay(record.reason, record.level, record.evidence, at_ns, record.serials, next_ns=at_ns)
            set_service(fleet, number, NodeService.QUARANTINED)
            _cordon(fleet, number, Cordon(HEALTH, record.reason))
        case r.ChecksStarted():
            set_service(fleet, number, NodeService.VALIDATING)
        case r.ChecksFailed():
            known = book.stays[name]
            book.stays[name] = replace(known, tries=known.tries + 1, next_ns=record.next_ns, paired_ns=0)
            set_service(fleet, number, NodeService.QUARANTINED)
            _cordon(fleet, number, Cordon(HEALTH, f"{known.reason}; its checks failed: {record.reason}"))
        case r.TrialStarted():
            known = book.stays[name]
            book.stays[name] = replace(known, next_ns=record.until_ns, paired_ns=0)
            for serial in known.serials or (f"node:{name}",):
                book.repairs[serial] = (*book.repairs.pop(serial, ()), at_ns)[-MAX_REPAIRS:]
            _bounded(book.repairs, MAX_COUNTED)
            _back(fleet, number, NodeService.PROBATION)
        case r.TrialPassed():
            book.stays.pop(name, None)
            set_service(fleet, number, NodeService.IN_SERVICE)
        case r.NodeReleased():
            book.stays.pop(name, None)
            book.refused.pop(name, None)
            book.released[name] = at_ns
            for device in (*fleet.facts[number].accelerators, None):
                prefix = f"{device.serial}/" if device else f"node:{name}/"
                for key in [key for key in book.sightings if key.startswith(prefix)]:
                    book.sightings.pop(key)
            _back(fleet, number, NodeService.IN_SERVICE)
        case _:
            assert_never(record)


def canary(state: State, record: r.CanaryReleased | r.CanaryEnded, at_ns: int) -> None:
    """One more is awaited, or one less."""
    book = state.canaries
    if isinstance(record, r.CanaryReleased):
        one = Canary(record.number, record.node, at_ns)
        state.canaries = replace(
            book, released=record.number, last_ns=at_ns, flying=(*book.flying, one), resting=(*book.rested(at_ns), one)
        )
        return
    book = replace(book, flying=tuple(one for one in book.flying if one.number != record.number))
    match record.outcome:
        case Outcome.CAUGHT:
            state.canaries = replace(book, caught=book.caught + 1)
        case Outcome.MISSED:
            state.canaries = replace(book, missed=book.missed + 1, late_node=record.node, late_ns=at_ns)
        case Outcome.CALLED_OFF:
            state.canaries = replace(book, called_off=book.called_off + 1)
        case _:
            assert_never(record.outcome)


def stragglers(state: State, record: r.StragglersFound | r.StragglersGone, at_ns: int) -> None:
    """Ranks are flagged, or not any more. Who is flagged for another cause now is flagged since then."""
    book = state.stragglers
    match record:
        case r.StragglersFound():
            found = tuple(replace(one, since_ns=at_ns) for one in record.found)
            state.stragglers = book.changed(record.job, found)
        case r.StragglersGone():
            state.stragglers = book.changed(record.job, (), record.ranks)
        case _:
            assert_never(record)


def _cordon(fleet: Fleet, number: int, cordon: Cordon | None) -> None:
    """Health's reason of a node, in place of its earlier one; None: it has none any more. Other owners' stay."""
    facts = fleet.facts[number]
    others = tuple(known for known in facts.cordons if known.owner != HEALTH)
    fleet.set_facts(number, replace(facts, cordons=others if cordon is None else (*others, cordon)))


def _back(fleet: Fleet, number: int, service: NodeService) -> None:
    """Health takes its reason back; where somebody drains the node, that goes on."""
    _cordon(fleet, number, None)
    if fleet.service[number] in (NodeService.DRAINING, NodeService.OUT_OF_SERVICE):
        return
    drains = any(cordon.drain for cordon in fleet.facts[number].cordons)
    set_service(fleet, number, NodeService.DRAINING if drains else service)
