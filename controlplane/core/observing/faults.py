"""Faults of a node: what came in, how it is judged, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.effects import EffectKind
from controlplane.core.evidence import Facts, Reason
from controlplane.core.fleet import Accelerator
from controlplane.core.health import canaries
from controlplane.core.health.book import RESETS, FaultNote, Source, StandingFault, position_of, serial_of
from controlplane.core.health.faults import ENDS_RANKS, TAKES_NODE, History, device_state, evaluate
from controlplane.core.health.quarantine import HEALTH, Case, already_lost, isolate, quarantine
from controlplane.core.health.shadow import Hit, is_new
from controlplane.core.jobs import NONE, Job, LostRank
from controlplane.core.observing.blame import excuse
from controlplane.core.observing.losses import lose_ranks
from controlplane.core.orders import fence
from controlplane.core.units import NS_PER_MS
from controlplane.core.vocabulary import AcceleratorState, Assertion, Blame, HandlingLevel, NodeService

MAX_FAULTS = 256
"""Faults that are taken from one message: more say nothing more."""


@dataclass(frozen=True, slots=True)
class Intake:
    """What a message leaves behind: fresh faults as judged, all that stand afterwards, sources that cannot be read."""

    fresh: tuple[FaultNote, ...]
    standing: tuple[FaultNote, ...]
    unreadable: tuple[Source, ...]

    def state(self, position: int, reported: int) -> AcceleratorState:
        """What to believe of a device."""
        if not self.standing and not self.unreadable:
            return AcceleratorState(reported)
        notes = (note for note in self.standing if position_of(note.entity) == position)
        covered = any(not source.accelerators or position in source.accelerators for source in self.unreadable)
        return device_state(reported, notes, readable=not covered)


def take_in(draft: Draft, event: ev.NodeHello | ev.NodeReport, known: tuple[Accelerator, ...]) -> Intake:
    """Judge what a node says of its health and write it down. `known`: its devices as they were before.

    A hello is the whole truth, and so is a report of all faults: what they do not name has recovered, unless its source
    cannot be read.
    """
    rows = [*_told_by_devices(event.accelerators, known), *event.faults][:MAX_FAULTS]
    if isinstance(event, ev.NodeHello) or event.all_faults:
        rows += _unnamed(draft.state.health.on(event.node), rows, event.unreadable or ())
    fresh = tuple(note for row in rows if (note := _judged(draft, event.node, row, known)) is not None)
    fresh = excuse(draft, event.node, fresh)
    if fresh:
        draft.write(r.FaultsReported(event.node, fresh))
        _catch(draft, event.node, fresh)
    return Intake(fresh, standing_now(draft, event.node), _sources(draft, event))


def _catch(draft: Draft, node: str, notes: Iterable[FaultNote]) -> None:
    """Canaries among the faults have been seen."""
    for note in notes:
        if note.vendor == canaries.VENDOR and draft.state.canaries.awaited(node, note.sequence) is not None:
            after_ms = (draft.now_ns - note.raised_ns) // NS_PER_MS
            draft.write(r.CanaryEnded(node, note.sequence, canaries.Outcome.CAUGHT, after_ms))


def standing_now(draft: Draft, node: str) -> tuple[FaultNote, ...]:
    """Faults that stand on a node once this decision is applied."""
    found = {(fault.note.entity, fault.note.code): fault.note for fault in draft.state.health.on(node)}
    for record in draft.records:
        if not isinstance(record, r.FaultsReported | r.FaultsJudged) or record.node != node:
            continue
        for note in record.notes:
            found.pop((note.entity, note.code), None)
            if note.assertion is Assertion.OCCURRED or note.held:
                found[(note.entity, note.code)] = note
    return tuple(found.values())


def _sources(draft: Draft, event: ev.NodeHello | ev.NodeReport) -> tuple[Source, ...]:
    known = draft.state.health.sources.get(event.node, ())
    if event.unreadable is None:
        return known
    since = {source.name: source.since_ns for source in known}
    found = tuple(
        Source(row.name, row.reason[:500], row.accelerators, since.get(row.name, draft.now_ns))
        for row in event.unreadable[:MAX_FAULTS]
    )
    if found != known:
        draft.write(r.SourcesReported(event.node, found))
    return found


def _told_by_devices(rows: Iterable[ev.AcceleratorRow], known: tuple[Accelerator, ...]) -> Iterable[ev.FaultRow]:
    """Faults that the rows of devices tell of, beside what was known of the devices."""
    for row in rows:
        before = known[row.index] if row.index < len(known) else Accelerator("")
        entity, device = f"accelerator/{row.index}", row.device
        if before.fault_code and (before.fault_code != device.fault_code or before.serial != device.serial):
            yield ev.FaultRow(entity, before.fault_code, before.vendor, assertion=Assertion.RECOVERED)
        if device.fault_code:
            yield ev.FaultRow(
                entity, device.fault_code, device.vendor, row.severity, row.assertion, row.sequence, row.raised_ns,
                device.fault_message,
            )  # fmt: skip


def _unnamed(
    standing: Iterable[StandingFault], rows: Iterable[ev.FaultRow], unreadable: Iterable[ev.SourceRow]
) -> list[ev.FaultRow]:
    """Ends of faults that stand and are not named any more; silence about what could not be read ends nothing."""
    named = {(row.entity, row.code) for row in rows}
    blind = [source.accelerators for source in unreadable]
    notes = [fault.note for fault in standing]
    return [
        ev.FaultRow(note.entity, note.code, note.vendor, assertion=Assertion.RECOVERED)
        for note in notes
        if (note.entity, note.code) not in named
        and note.assertion is Assertion.OCCURRED
        and not any(not covered or position_of(note.entity) in covered for covered in blind)
    ]


def _judged(draft: Draft, node: str, row: ev.FaultRow, devices: tuple[Accelerator, ...]) -> FaultNote | None:
    """A fault as a note with its level; None when it says nothing new."""
    standing = {(fault.note.entity, fault.note.code): fault.note for fault in draft.state.health.on(node)}
    known = standing.get((row.entity, row.code))
    if row.assertion is Assertion.RECOVERED:
        if known is None or known.assertion is Assertion.RECOVERED:
            return None
        return replace(known, assertion=Assertion.RECOVERED, until_ns=known.until_ns if known.held else 0)
    if known is not None and known.assertion is Assertion.OCCURRED and not _again(row, known):
        return None
    if row.assertion is Assertion.ONCE and row.raised_ns in _sightings(draft, node, row, devices):
        return None  # told again, because our acknowledgement was lost
    note = FaultNote(
        row.entity, row.code, HandlingLevel.IGNORE, "", row.vendor, row.severity, row.assertion, row.sequence,
        min(row.raised_ns, draft.now_ns) or draft.now_ns, row.message[:500],
    )  # fmt: skip
    return judge(draft, node, note, devices)


def _sightings(draft: Draft, node: str, row: ev.FaultRow, devices: tuple[Accelerator, ...]) -> tuple[int, ...]:
    """When the fault was seen on that part before, Unix ns."""
    return draft.state.health.sightings.get(f"{serial_of(row.entity, node, devices)}/{row.code}", ())


def _again(row: ev.FaultRow, known: FaultNote) -> bool:
    """Whether a fault that stands has occurred anew, and was not merely told again."""
    if row.sequence or known.sequence:
        return row.sequence > known.sequence
    return row.raised_ns > known.raised_ns


def judge(draft: Draft, node: str, note: FaultNote, devices: tuple[Accelerator, ...]) -> FaultNote:
    """The note with the level that the catalogue gives it now; a canary's is observed, stands never, and asks nobody."""
    if note.vendor == canaries.VENDOR:
        return replace(note, level=HandlingLevel.OBSERVE, reason=canaries.REASON, assertion=Assertion.ONCE)
    serial = serial_of(note.entity, node, devices)
    sightings = draft.state.health.sightings
    history = History(lambda code: sightings.get(f"{serial}/{code}", ()))
    handling = evaluate(draft.policy.catalogue, history, note, draft.now_ns)
    if handling.shadowed:
        _shadowed(draft, node, note, handling.shadowed)
    return replace(note, level=handling.level, reason=handling.reason, until_ns=handling.until_ns, held=handling.held)


def _shadowed(draft: Draft, node: str, note: FaultNote, level: HandlingLevel) -> None:
    """A rule in shadow mode would have acted: only that is written down."""
    hit = Hit(node, note.entity, level, draft.now_ns)
    record = r.FaultShadowed(node, note.entity, note.vendor, note.code, level)
    if is_new(draft.state.shadows, note.vendor, note.code, hit) and record not in draft.records:
        draft.write(record)


def act(draft: Draft, node: str, number: int, notes: Iterable[FaultNote]) -> None:
    """Do what faults ask for: take ranks, order resets, cordon or quarantine."""
    asked = [note for note in notes if note.assertion is not Assertion.RECOVERED]
    for note in asked:
        position = position_of(note.entity)
        if position >= 0:
            _act_on_device(draft, node, number, note)
        elif note.level in (HandlingLevel.CORDON, *RESETS):
            draft.write(r.NodeCordoned(node, HEALTH, f"{note.code}: {note.reason}"))
        elif note.level in ENDS_RANKS:
            isolate(draft, node, case_of(draft, number, note))
        _end_trial(draft, node, number, note)
    _lift_cordon(draft, node, number, notes)


def act_on_new(draft: Draft, node: str, notes: Iterable[FaultNote], devices: tuple[Accelerator, ...]) -> None:
    """What the faults of a node ask for that is registered in this very decision: nothing runs there, so nobody is disturbed."""
    standing = [note for note in notes if note.assertion is Assertion.OCCURRED or note.held]
    of_node = [note for note in standing if position_of(note.entity) < 0]
    bad = [note for note in standing if note.level in TAKES_NODE] + [n for n in of_node if n.level in ENDS_RANKS]
    if bad:
        case = _case(max(bad, key=lambda note: note.level), devices)
        draft.write(r.NodeQuarantined(node, case.reason, case.level, case.evidence, case.serials, disturbs=False))
        return
    for note in of_node:
        if note.level in (HandlingLevel.CORDON, *RESETS):
            draft.write(r.NodeCordoned(node, HEALTH, f"{note.code}: {note.reason}"))


def case_of(draft: Draft, number: int, note: FaultNote) -> Case:
    """A fault as a reason to take its node out."""
    return _case(note, draft.fleet.facts[number].accelerators)


def _case(note: FaultNote, devices: tuple[Accelerator, ...]) -> Case:
    position = position_of(note.entity)
    serials = (devices[position].serial,) if 0 <= position < len(devices) else ()
    text = f"{note.entity} reports {note.code}: {note.reason}"
    return Case(
        text, (f"{note.vendor or 'probe'}: {note.code} {note.message}".strip(),), note.level, serials, note.code
    )


def _end_trial(draft: Draft, node: str, number: int, note: FaultNote) -> None:
    """Who is on trial goes back for less than others."""
    on_trial = draft.fleet.service[number] == NodeService.PROBATION
    if (
        on_trial
        and not note.excused
        and note.level >= HandlingLevel.RESTART_PROCESS
        and note.level is not HandlingLevel.CORDON
    ):
        case = case_of(draft, number, note)
        quarantine(draft, node, replace(case, reason=f"on trial, {case.reason}"))


def _lift_cordon(draft: Draft, node: str, number: int, notes: Iterable[FaultNote]) -> None:
    """Health's own cordon goes with the last fault that asked for one; a quarantine ends in its own way."""
    ended = {(note.entity, note.code) for note in notes if note.assertion is Assertion.RECOVERED and not note.held}
    owns = any(cordon.owner == HEALTH for cordon in draft.fleet.facts[number].cordons) if ended else False
    if not owns or node in draft.state.health.stays:
        return
    left = [fault.note for fault in draft.state.health.on(node) if (fault.note.entity, fault.note.code) not in ended]
    wanted = (HandlingLevel.CORDON, *RESETS)
    if not any(position_of(note.entity) < 0 and note.level in wanted for note in left):
        draft.write(r.NodeUncordoned(node, HEALTH))


def _act_on_device(draft: Draft, node: str, number: int, note: FaultNote) -> None:
    if note.level in ENDS_RANKS or note.level is HandlingLevel.RETRY_STEP:
        take_ranks(draft, node, number, note)
    if note.level is HandlingLevel.RESET_NOW:
        order_reset(draft, node, note)
    elif note.level in TAKES_NODE:
        isolate(draft, node, case_of(draft, number, note), whole_jobs=False)


def take_ranks(draft: Draft, node: str, number: int, note: FaultNote) -> None:
    """Every job loses its ranks on the note's device, except where it has muted the code."""
    for job in draft.state.active_jobs():
        if job.placed and not job.ending and note.code not in (job.spec.muted_faults if note.code else ()):
            _take_ranks(draft, job, node, number, note)


def order_reset(draft: Draft, node: str, note: FaultNote) -> None:
    """Have the agent reset what a fault stands on; what it finds then it reports before it answers."""
    draft.effect(
        EffectKind.RUN_CHECKS, f"node:{node}", items=(note.level.name, note.entity),
        timeout_ms=draft.policy.quarantine.checks_ms,
    )  # fmt: skip


def ranks_on(job: Job, number: int, position: int) -> list[int]:
    """Ranks of a job whose processes use a device."""
    here = np.flatnonzero((job.rank_node == number) & (job.rank_host != NONE))
    return [rank for rank in here.tolist() if position in job.rank_acc[rank]]


def _take_ranks(draft: Draft, job: Job, node: str, number: int, note: FaultNote) -> None:
    """Ranks on the device are lost and their processes fenced; of a step that can be tried again only the step is."""
    position = position_of(note.entity)
    gone = already_lost(draft, job)
    ranks = [rank for rank in ranks_on(job, number, position) if rank not in gone]
    if not ranks:
        return
    text = f"accelerator {position} of {node} reports {note.code or 'FAILED'}"
    if note.level is HandlingLevel.RETRY_STEP:
        lose_ranks(draft, job, (), f"{text}: the step is tried again", Reason.DEVICE_FAULT, intact=True)
        return
    told = draft.state.revision + len(draft.records)
    blame = Blame.USER if note.excused else Blame.INFRASTRUCTURE
    if note.excused:
        text = f"{text}; {note.reason}"
    facts = Facts(Reason.DEVICE_FAULT, fault_level=note.level.name, fault_code=note.code, record=told)
    lost = tuple(
        LostRank(
            rank, int(job.rank_host[rank]), text, blame, draft.now_ns, f"probe: {text}", facts=facts
        )
        for rank in ranks
    )  # fmt: skip
    fence(draft, job, [entry.serial for entry in lost])
    # Others of the job may show the same in a moment, and then the code is to blame: the verdict waits for them.
    lose_ranks(draft, job, lost, text, collect=job.devices >= draft.policy.catalogue.guard.devices)
