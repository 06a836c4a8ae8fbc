"""Which fault of the world led to which verdict of the core: by what the fault struck and what the incident lost.

A fault touches ranks, nodes, or a job; an incident names the rank that was lost first, and through it a node. The newest
fault that touches it is its cause. Where none does, all that can be said is what had struck shortly before.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controlplane.core import records as r
from controlplane.core.evidence import Reason
from controlplane.core.units import seconds
from controlplane.core.vocabulary import Phase
from controlplane.sim.checkers.book import Book
from controlplane.sim.faults import CATALOGUE
from controlplane.sim.faults.catalogue import Aim

if TYPE_CHECKING:
    from controlplane.sim.world.site import World

WITHIN_S = 1_800.0
"""Longer than the slowest sign of a fault: a hang shows after ten minutes, wrong results and a slow repair later."""
SHORTLY_S = 120.0
"""Without a cause by name: what struck within this time before a verdict counts as at work."""


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault. `touches`: `node <name>`, `rank <uid>/<rank>`, `job <uid>` or `files <uid>` (its checkpoints)."""

    kind: str
    at_ns: int
    touches: frozenset[str]


class Causes:
    """Faults of late, and what running incidents have lost."""

    def __init__(self) -> None:
        self._struck: deque[Struck] = deque()
        self._lost: dict[str, list[frozenset[str]]] = {}

    def struck(self, kind: str, target: str, world: World) -> None:
        """A fault has struck a target."""
        self._struck.append(Struck(kind, world.now_ns, frozenset(_touched(CATALOGUE[kind].aim, target, world))))
        while self._struck[0].at_ns < world.now_ns - seconds(WITHIN_S):
            self._struck.popleft()

    def lost(self, record: r.Record, book: Book) -> None:
        """Losses as they become durable, before the book has them."""
        match record:
            case r.RanksLost(job=uid):
                self._lost.setdefault(uid, []).extend(_losses(record, book))
            case r.GenerationReached(job=uid, phase=Phase.FIRST_STEP) | r.JobUnplaced(job=uid) | r.JobEnded(job=uid):
                self._lost.pop(uid, None)
            case _:
                return

    def of(self, uid: str, now_ns: int) -> str:
        """The kind of the newest fault that touches what a job's incident lost first, or later; "": none does."""
        recent = [fault for fault in reversed(self._struck) if fault.at_ns >= now_ns - seconds(WITHIN_S)]
        for things in self._lost.get(uid, []):
            for fault in recent:
                if fault.touches & things:
                    return fault.kind
        return ""

    def shortly_before(self, now_ns: int) -> set[str]:
        """Kinds that struck just before."""
        return {fault.kind for fault in self._struck if fault.at_ns >= now_ns - seconds(SHORTLY_S)}


def _touched(aim: Aim, target: str, world: World) -> list[str]:
    """What a fault on a target touches; nothing for one that strikes the site as a whole."""
    head, _, tail = target.rpartition("/")
    match aim:
        case Aim.RANK:
            gang = world.gangs.find(head)
            process = gang.members.get(int(tail)) if gang and tail.isdecimal() else None
            return [f"rank {head}/{tail}", *([f"node {process.node}"] if process else [])]
        case Aim.DEVICE:
            return [f"node {head}"]
        case Aim.NODE:
            return [f"node {target}"]
        case Aim.JOB:
            return [f"job {target}"]
        case Aim.CHECKPOINT:
            return [f"files {target.split('/', maxsplit=1)[0]}"]
        case Aim.RELAY:
            return [f"node {node.name}" for node in world.relays.behind(target)]
        case Aim.SITE:
            return []
        case Aim.RACK | Aim.SWITCH | Aim.POWER | Aim.SUPERPOD:
            return [f"node {node.name}" for node in world.nodes.values() if (aim.value, target) in node.labels]


def _losses(record: r.RanksLost, book: Book) -> list[frozenset[str]]:
    """What a record of losses tells of, the earliest loss of its own first; that of a job as a whole last."""
    job = book.jobs[record.job]
    own = [entry for entry in record.lost if not entry.consequence]
    found = []
    for entry in sorted(own, key=lambda entry: (entry.fault_ns, entry.rank)):
        number = job.places[entry.rank][0] if entry.rank < len(job.places) else -1
        place = [f"node {book.nodes[number].name}"] if number >= 0 else []
        found.append(frozenset([f"rank {job.uid}/{entry.rank}", *place]))
    files = [f"files {job.uid}"] if record.why == Reason.RESTORE_FAILED else []
    return [*found, frozenset([f"job {job.uid}", *files])]
