"""What restart rules do to places: the node where a root was is judged with its first verdict, and never again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from controlplane.core import records as r
from controlplane.core.evidence import Offence
from controlplane.core.jobs import NONE
from controlplane.core.spec import NodeAction
from controlplane.core.state import State
from controlplane.sim.checkers.base import Checker, Durable, Finding
from controlplane.sim.checkers.book import HEALTH, RULES, Book
from controlplane.sim.checkers.incidents import Incidents

if TYPE_CHECKING:
    from controlplane.sim.world.site import World

Root = tuple[str, int, int]
"""Job, rank and time of the fault: what began an incident, however often it is decided."""

BY_RULES = ("silent corruption: ", "(nodeRules[")
"""What the reason of a quarantine holds that a rule asked for: the job's own, or the one for results that disagree."""


class RootsAreJudgedOnce(Checker):
    """A root has its node judged by all node rules once, with the first verdict on it; quarantines and cordons that rules ask
    for come with such a verdict, once for a root, and strike the node where it was, not where its rank has moved."""

    invariant = "rules"
    watches = (*Incidents.WATCHES, r.NodeJudged, r.NodeCordoned, r.NodeQuarantined)

    def __init__(self) -> None:
        self._incidents = Incidents()
        self._decided: Offence | None = None
        self._owed: dict[str, Root] = {}
        self._judged: set[Root] = set()
        self._taken: set[tuple[Root, str]] = set()

    def record(self, seen: Durable, book: Book) -> Iterator[Finding]:
        """Judge what is done to places, then read what is new."""
        record = seen.record
        match record:
            case r.NodeCordoned(node=node, owner=owner) if owner == RULES:
                yield from self._took(node, "cordoned", book)
            case r.NodeQuarantined(node=node, reason=reason) if any(words in reason for words in BY_RULES):
                yield from self._took(node, "quarantined", book)
            case r.NodeJudged():
                yield from self._place(record, book)
            case _:
                pass
        self._incidents.fold(record, book)
        if isinstance(record, r.RecoveryDecided):
            self._verdict(record, book)

    def turn(self, after: State, book: Book, world: World) -> Iterator[Finding]:
        """Everything that follows from a verdict comes with it."""
        owed, self._owed, self._decided = self._owed, {}, None
        for uid, root in owed.items():
            yield Finding(uid, f"{uid} has node rules, and nobody judged where rank {root[1]} was when it was lost")

    def _verdict(self, record: r.RecoveryDecided, book: Book) -> None:
        self._decided = offence = self._incidents.counted(record.job)
        rules = book.jobs[record.job].spec.restart_policy.node_rules
        if offence is not None and rules and offence.node != NONE and _root(offence) not in self._judged:
            self._owed[record.job] = _root(offence)

    def _took(self, node: str, how: str, book: Book) -> Iterator[Finding]:
        offence = self._decided
        if offence is None:
            yield Finding(node, f"{node} was {how} by a rule, and no verdict asked for it")
        elif (was := _place(offence, book)) != node:
            text = f"{node} was {how} by a rule for rank {offence.rank} of {offence.job}, which was on {was} when it was lost"
            yield Finding(node, text)
        elif (_root(offence), how) in self._taken:  # one verdict may quarantine and cordon
            yield Finding(node, f"{node} was {how} by a rule a second time for one loss of {offence.job}")
        else:
            self._taken.add((_root(offence), how))

    def _place(self, record: r.NodeJudged, book: Book) -> Iterator[Finding]:
        offence = self._decided
        if offence is None or offence.job != record.job:
            yield Finding(record.job, f"{record.node} was judged for {record.job} without a verdict of it")
            return
        self._owed.pop(record.job, None)
        if (was := _place(offence, book)) != record.node:
            yield Finding(record.job, f"{record.node} was judged for {record.job}, and the root was on {was}")
        elif _root(offence) in self._judged:
            yield Finding(record.job, f"{record.node} was judged a second time for one loss of {record.job}")
        self._judged.add(_root(offence))
        owner = {NodeAction.QUARANTINE.value: HEALTH, NodeAction.CORDON.value: RULES}.get(record.action, "")
        if owner and owner not in book.node(record.node).cordons:
            yield Finding(
                record.job, f"{record.action} of {record.node} is said to be done, and {owner} has no cordon on it"
            )


def _root(offence: Offence) -> Root:
    return offence.job, offence.rank, offence.at_ns


def _place(offence: Offence, book: Book) -> str:
    return book.nodes[offence.node].name if offence.node != NONE else "no node"
