"""What is acknowledged is kept, and nothing leaves before it is: S6 and S7."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from controlplane.core import records as r
from controlplane.core.effects import Effect
from controlplane.core.state import State
from controlplane.engine.recover import catch_up, load
from controlplane.sim.checkers.base import Checker, Durable, Finding
from controlplane.sim.checkers.book import Book

if TYPE_CHECKING:
    from controlplane.sim.world.site import World

MEAN_TURNS = 400
"""Turns between two comparisons of digests, on average."""


class ReplayAgrees(Checker):
    """S6: a second state, folded from the journal alone, is the published one: at random moments, after every crash, at the
    end; there from the beginning, too."""

    invariant = "S6"

    def __init__(self) -> None:
        self._replica = State()

    def turn(self, after: State, book: Book, world: World) -> Iterator[Finding]:
        """Once in a while, by the seed."""
        if world.kernel.stream("checkers/replay").random() * MEAN_TURNS < 1:
            yield from self._compare(after, world, "after a turn")

    def restarted(self, state: State, book: Book, world: World) -> Iterator[Finding]:
        """The state that the new controller leads with."""
        yield from self._compare(state, world, "after a restart")

    def settled(self, book: Book, world: World) -> Iterator[Finding]:
        """Everything once more, from the first record or the newest snapshot on."""
        yield from self._compare(world.state(), world, "at the end")
        if load(world.journal).digest() != world.state().digest():
            yield Finding("journal", "a new controller would load another state than the published one")

    def _compare(self, published: State, world: World, when: str) -> Iterator[Finding]:
        try:
            self._replica = catch_up(self._replica, world.journal)
        except ValueError as error:
            yield Finding("journal", f"the journal cannot be replayed {when}: {error}")
            return
        if self._replica.revision != published.revision:
            text = f"the journal ends at revision {self._replica.revision}, the state at {published.revision} {when}"
            yield Finding("journal", text)
        elif self._replica.digest() != published.digest():
            yield Finding("journal", f"replay gives another state {when}, at revision {published.revision}")


class DurableBeforeSent(Checker):
    """S7: an effect leaves only when the record that issues it is in the journal; it is issued once and has one outcome."""

    invariant = "S7"
    watches = (r.EffectsIssued, r.EffectsFinished)

    def record(self, seen: Durable, book: Book) -> Iterator[Finding]:
        """Ids are used once, outcomes are given once."""
        match seen.record:
            case r.EffectsIssued(effects=effects):
                for effect in effects:
                    if effect.id in book.issued:
                        yield Finding(effect.id, f"effect {effect.id} is issued a second time")
            case r.EffectsFinished(ids=ids):
                for name in ids:
                    if name in book.finished:
                        yield Finding(name, f"effect {name} has a second outcome")
                    elif name not in book.issued:
                        yield Finding(name, f"effect {name} has an outcome and was never issued")
            case _:
                return

    def submitted(self, effects: Sequence[Effect], book: Book, world: World) -> Iterator[Finding]:
        """The book was just read up to the end of the journal."""
        for effect in effects:
            if effect.id not in book.issued:
                text = f"effect {effect.id} ({effect.kind} to {effect.target}) left before its record was durable"
                yield Finding(effect.id, text)
