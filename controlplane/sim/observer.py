"""What a run shows to those who watch it: checkers, coverage, the readable trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from controlplane.core.effects import Effect
from controlplane.core.events import Event
from controlplane.core.state import State
from controlplane.engine.ports import JournalEntry
from controlplane.engine.turn import TurnResult

if TYPE_CHECKING:
    from controlplane.sim.world.gangs import Gang
    from controlplane.sim.world.nodes import SimNode
    from controlplane.sim.world.site import World


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn that wrote something.

    `at_ns`: the world's time (the controller's own clock may differ: `result.entries`). `events`: the drained batch; empty
    when a commit of uncertain outcome turned out to be durable. `leads`: it was the newest controller, not a stale one.
    """

    at_ns: int
    epoch: int
    events: Sequence[Event]
    before: State
    result: TurnResult
    after: State
    leads: bool


class Observer:
    """Watches a run; override what you need. Observers change nothing and may raise to end the run."""

    def on_turn(self, turn: Turn, world: World) -> None:
        """After a turn was published, before its effects arrive anywhere."""

    def on_restart(self, state: State, found: Sequence[JournalEntry], world: World) -> None:
        """A controller leads with the `state` of the journal. `found`: entries that no turn has shown (a crash hid them)."""

    def on_submit(self, effects: Sequence[Effect], world: World) -> None:
        """Effects leave a controller."""

    def on_carried_out(self, effect: Effect, node: SimNode, epoch: int, world: World) -> None:
        """A node agent has carried out an effect of a controller of that epoch, and has not yet said so."""

    def on_read(self, gang: Gang, world: World) -> None:
        """The ranks of a gang have read their restore point, and found it whole."""

    def on_fault(self, kind: str, target: str, world: World) -> None:
        """A fault of the catalogue has just struck (`controlplane.sim.faults`)."""

    def on_quiet(self, world: World) -> None:
        """All faults are over and everything is repaired; from here to the end nothing new happens."""

    def on_end(self, world: World) -> None:
        """After the scenario's duration and its quiet time at the end."""
