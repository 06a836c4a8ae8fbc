"""All checkers together, as an observer of a simulated site: the first violation ends the run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from controlplane.core import records as r
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.state import State
from controlplane.engine.ports import JournalEntry
from controlplane.sim.checkers.acts import BudgetHolds, OwnersKeepTheirReasons
from controlplane.sim.checkers.base import Checker, Durable, Finding
from controlplane.sim.checkers.believing import SilenceKillsNobody
from controlplane.sim.checkers.book import Book
from controlplane.sim.checkers.copies import CopiesLieElsewhere
from controlplane.sim.checkers.durability import DurableBeforeSent, ReplayAgrees
from controlplane.sim.checkers.ledger import EverySecondOnce
from controlplane.sim.checkers.numbering import NumbersGrow
from controlplane.sim.checkers.old_writers import OldWritersAreHarmless
from controlplane.sim.checkers.peace import EveryJobKnowsWhy, NodesAreWhatTheyAre, NothingGrows, SparesComeBack
from controlplane.sim.checkers.places import OneRankPerAccelerator, OnlyWhereWorkMayGo
from controlplane.sim.checkers.roots import RootsAreJudgedOnce
from controlplane.sim.checkers.rules import RulesAreObeyed
from controlplane.sim.checkers.storage import LastGoodIsKept, StartsFromARestorePoint
from controlplane.sim.coverage import Coverage
from controlplane.sim.observer import Observer, Turn
from controlplane.sim.trace import line

if TYPE_CHECKING:
    from controlplane.core.draft import Policy
    from controlplane.sim.world.gangs import Gang
    from controlplane.sim.world.nodes import SimNode
    from controlplane.sim.world.site import World

REMEMBERED = 2_000
"""Newest records from which a violation quotes."""

QUOTED = 12
"""Records that a violation quotes: the newest that name its entity."""

WIDEST = 320
"""Characters of a quoted record; `phalanx sim replay --trace` shows all of it."""

PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Violation:
    """What must not be: which invariant, when (Unix ns), about whom, in prose, with the last records about it."""

    invariant: str
    at_ns: int
    entity: str
    text: str
    recent: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"{self.invariant}: {self.text}", *(f"  {text}" for text in self.recent)])


class Violated(Exception):
    """An invariant does not hold; `violation` says which."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(str(violation))
        self.violation = violation


def all_checkers(policy: Policy) -> tuple[Checker, ...]:
    """One of each, with nothing seen yet."""
    return (
        OneRankPerAccelerator(), OnlyWhereWorkMayGo(), OldWritersAreHarmless(), NumbersGrow(), StartsFromARestorePoint(),
        ReplayAgrees(), DurableBeforeSent(), CopiesLieElsewhere(), BudgetHolds(policy.actions), LastGoodIsKept(),
        OwnersKeepTheirReasons(), EverySecondOnce(), SilenceKillsNobody(), EveryJobKnowsWhy(), NodesAreWhatTheyAre(),
        SparesComeBack(), NothingGrows(), RulesAreObeyed(), RootsAreJudgedOnce(),
    )  # fmt: skip


class Monitor(Observer):
    """Reads the journal as it grows, tells every checker, and raises `Violated` with the first finding."""

    def __init__(self, checkers: Iterable[Checker]) -> None:
        self.book = Book()
        self.coverage = Coverage()
        self._checkers = tuple(checkers)
        self._watching: dict[type[Any], list[Checker]] = {}
        for checker in self._checkers:
            for watched in checker.watches:
                self._watching.setdefault(watched, []).append(checker)
        self._recent: deque[tuple[int, r.Record]] = deque(maxlen=REMEMBERED)

    # -- what the world tells ---------------------------------------------------------------------------------------

    def on_turn(self, turn: Turn, world: World) -> None:
        """A turn was published."""
        entries, records = turn.result.entries, turn.result.records
        if entries and entries[0].revision == self.book.revision + 1:
            for entry, record in zip(entries, records, strict=True):
                self._read(entry, record, world)
        else:
            self._read_journal(world)
        self.coverage.serving(turn.before.fleet, turn.after.fleet)
        if turn.leads:
            for checker in self._checkers:
                self._judge(checker, checker.turn(turn.after, self.book, world))

    def on_submit(self, effects: Sequence[Effect], world: World) -> None:
        """Effects left the controller: whatever the journal holds now was there before them."""
        self._read_journal(world)
        for checker in self._checkers:
            self._judge(checker, checker.submitted(effects, self.book, world))

    def on_read(self, gang: Gang, world: World) -> None:
        """The ranks of a gang have read their restore point."""
        for checker in self._checkers:
            self._judge(checker, checker.read(gang, self.book, world))

    def on_carried_out(self, effect: Effect, node: SimNode, epoch: int, world: World) -> None:
        """An agent has obeyed; it may have given accelerators to processes."""
        for checker in self._checkers:
            self._judge(checker, checker.obeyed(effect, node, epoch))
        if effect.kind is EffectKind.APPLY_GENERATION:
            for checker in self._checkers:
                self._judge(checker, checker.occupied(node, self.book))

    def on_restart(self, state: State, found: Sequence[JournalEntry], world: World) -> None:
        """Another controller leads."""
        self._read_journal(world)
        for checker in self._checkers:
            self._judge(checker, checker.restarted(state, self.book, world))

    def on_quiet(self, world: World) -> None:
        """Faults stop."""
        self._read_journal(world)
        for checker in self._checkers:
            checker.quiet(self.book)

    def on_end(self, world: World) -> None:
        """Faults have stopped long enough ago."""
        self._read_journal(world)
        for checker in self._checkers:
            self._judge(checker, checker.settled(self.book, world))

    def on_fault(self, kind: str, target: str, world: World) -> None:
        """A fault has struck."""
        self.coverage.struck(kind, target, world)

    # -- reading ----------------------------------------------------------------------------------------------------

    def _read_journal(self, world: World) -> None:
        while entries := world.journal.read(self.book.revision, PAGE):
            for entry in entries:
                self._read(entry, r.decode(entry.type, entry.version, entry.body), world)

    def _read(self, entry: JournalEntry, record: r.Record, world: World) -> None:
        self._recent.append((entry.at_ns, record))
        watching = self._watching.get(type(record), ())
        if watching:
            seen = Durable(record, entry.revision, entry.at_ns, entry.cause)
            for checker in watching:
                self._judge(checker, checker.record(seen, self.book))
        before = self.coverage.states(record, self.book)
        self.coverage.verdict(record, self.book, world.now_ns)
        self.book.fold(record, entry.revision, entry.at_ns)
        self.coverage.moved(before, self.coverage.states(record, self.book))

    def _judge(self, checker: Checker, findings: Iterable[Finding]) -> None:
        for finding in findings:
            raise Violated(
                Violation(checker.invariant, self.book.at_ns, finding.entity, finding.text, self._about(finding.entity))
            )

    def _about(self, entity: str) -> tuple[str, ...]:
        lines = (line(at_ns, record) for at_ns, record in reversed(self._recent))
        found = [text for text in lines if entity in text]
        return tuple(text if len(text) <= WIDEST else f"{text[:WIDEST]}..." for text in reversed(found[:QUOTED]))
