"""What a checker is: it watches records as they become durable, and says in prose what must not be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from controlplane.core.effects import Effect
from controlplane.core.records import Record
from controlplane.core.state import State
from controlplane.sim.checkers.book import Book

if TYPE_CHECKING:
    from controlplane.sim.world.gangs import Gang
    from controlplane.sim.world.nodes import SimNode
    from controlplane.sim.world.site import World

NOTHING: Iterator[Any] = iter(())
"""What a checker finds that does not look."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, and about whom: a node, a job's uid, an effect."""

    entity: str
    text: str


@dataclass(frozen=True, slots=True)
class Durable:
    """A record of the journal as a checker sees it, before the book has it. `cause`: the event that it answers."""

    record: Record
    revision: int
    at_ns: int
    cause: str


class Checker:
    """One invariant. Every method looks at one kind of moment; those that a checker does not need stay empty.

    `watches` are the record types for which `record` is called, each before the book folds it.
    """

    invariant: ClassVar[str]
    watches: ClassVar[tuple[type[Any], ...]] = ()

    def record(self, seen: Durable, book: Book) -> Iterator[Finding]:
        """A record became durable; `book` is as it was before it."""
        return NOTHING

    def turn(self, after: State, book: Book, world: World) -> Iterator[Finding]:
        """A turn was published as `after`; the book has all its records."""
        return NOTHING

    def submitted(self, effects: Sequence[Effect], book: Book, world: World) -> Iterator[Finding]:
        """Effects left the controller."""
        return NOTHING

    def occupied(self, node: SimNode, book: Book) -> Iterator[Finding]:
        """A process of the world has taken accelerators of a node."""
        return NOTHING

    def obeyed(self, effect: Effect, node: SimNode, epoch: int) -> Iterator[Finding]:
        """A node agent has carried out an effect of a controller of that epoch."""
        return NOTHING

    def read(self, gang: Gang, book: Book, world: World) -> Iterator[Finding]:
        """The ranks of a gang have read their restore point."""
        return NOTHING

    def restarted(self, state: State, book: Book, world: World) -> Iterator[Finding]:
        """Another controller leads, with the state that it has read from the journal."""
        return NOTHING

    def quiet(self, book: Book) -> None:
        """Faults have stopped, everything is repaired; operators take back their reasons, and those that wait for them."""

    def settled(self, book: Book, world: World) -> Iterator[Finding]:
        """Faults have stopped, everything is repaired, and the stated time has passed."""
        return NOTHING
