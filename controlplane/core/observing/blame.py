"""The software guard at work: the same fault on many devices of one job at once is the job's own, and is taken back from the
devices that it was held against before there were many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.fleet import FREE
from controlplane.core.health.book import FaultNote, Recent, position_of
from controlplane.core.health.faults import ENDS_RANKS, Sighting, device_state, is_the_jobs_own
from controlplane.core.jobs import Job
from controlplane.core.vocabulary import Blame, HandlingLevel

EXCUSED = HandlingLevel.RESTART_PROCESS
"""What a fault is worth that the job brought about itself: a new process, and nothing against the device."""


def excuse(draft: Draft, node: str, notes: Sequence[FaultNote]) -> tuple[FaultNote, ...]:
    """The fresh notes of a node, those lowered that are their job's own; earlier ones of the kind are set right."""
    number = draft.fleet.number(node)
    result = list(notes)
    for job, code in _suspects(draft, number, notes) if number is not None else ():
        mine = [at for at, note in enumerate(result) if note.code == code and _owner(draft, number, note) == job.serial]
        here = [Recent(node, position_of(result[at].entity), draft.now_ns) for at in mine]
        earlier = _shown(draft, job, code, here)
        sightings = [_sighting(draft, recent) for recent in (*earlier, *here)]
        racks = len(np.unique(draft.fleet.rack[job.rank_node[job.present]])) if job.placed else 0
        why = is_the_jobs_own(draft.policy.catalogue.guard, sightings, job.devices, racks, draft.now_ns)
        if not why:
            continue
        reason = f"{code} is the job's own: {why}"
        for at in mine:
            result[at] = _lowered(result[at], reason)
        _set_right(draft, job, code, reason, earlier)
    return tuple(result)


def _lowered(note: FaultNote, reason: str) -> FaultNote:
    return replace(note, level=EXCUSED, reason=reason, until_ns=0, held=False, excused=True)


def _owner(draft: Draft, number: int | None, note: FaultNote) -> int:
    """Serial number of the job that holds the note's device, if the note would end its rank."""
    position = position_of(note.entity)
    owners = draft.fleet.acc_owner
    if number is None or not 0 <= position < owners.shape[1] or note.level not in ENDS_RANKS:
        return FREE
    return int(owners[number][position])


def _suspects(draft: Draft, number: int | None, notes: Iterable[FaultNote]) -> list[tuple[Job, str]]:
    """Jobs and codes that the guard has to look at, each pair once."""
    pairs = dict.fromkeys((_owner(draft, number, note), note.code) for note in notes)
    by_serial = {job.serial: job for job in draft.state.active_jobs() if not job.ending}
    return [(by_serial[serial], code) for serial, code in pairs if serial in by_serial]


def _shown(draft: Draft, job: Job, code: str, here: Iterable[Recent]) -> list[Recent]:
    """Devices of the job that showed the code before, each once, without those that show it now."""
    fleet = draft.fleet
    now = {(recent.node, recent.position) for recent in here}
    found: dict[tuple[str, int], Recent] = {}
    for recent in draft.state.health.recent.get(code, ()):
        number = fleet.number(recent.node)
        if number is None or recent.position >= fleet.acc_owner.shape[1] or (recent.node, recent.position) in now:
            continue
        if fleet.acc_owner[number][recent.position] == job.serial:
            found[(recent.node, recent.position)] = recent
    return list(found.values())


def _sighting(draft: Draft, recent: Recent) -> Sighting:
    number = draft.fleet.index[recent.node]
    return Sighting(number, int(draft.fleet.rack[number]), recent.at_ns)


def _set_right(draft: Draft, job: Job, code: str, reason: str, earlier: Iterable[Recent]) -> None:
    """What was held against devices and against the infrastructure is taken back."""
    for recent in earlier:
        _clear_device(draft, recent, code, reason)
    lost = job.incident.lost if job.incident else ()
    blamed = tuple(entry.rank for entry in lost if entry.facts.fault_code == code and entry.blame is not Blame.USER)
    if blamed:
        draft.write(r.IncidentReblamed(job.uid, blamed, Blame.USER, EXCUSED.name, reason))


def _clear_device(draft: Draft, recent: Recent, code: str, reason: str) -> None:
    number = draft.fleet.index[recent.node]
    mine = [
        fault.note for fault in draft.state.health.on(recent.node) if position_of(fault.note.entity) == recent.position
    ]
    right = tuple(_lowered(note, reason) for note in mine if note.code == code and note.level > EXCUSED)
    if not right:
        return
    draft.write(r.FaultsJudged(recent.node, right))
    device = draft.fleet.facts[number].accelerators[recent.position]
    left = [note for note in mine if note.code != code]
    state = device_state(device.reported, (*left, *right), readable=True)
    draft.write(r.AcceleratorsChanged(recent.node, (ev.AcceleratorRow(recent.position, state, device),)))
