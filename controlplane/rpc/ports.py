"""What the edge needs from the rest of the controller."""

from __future__ import annotations

from typing import Protocol

from controlplane.core.events import Event
from controlplane.core.health.distrust import Vitals
from controlplane.core.health.strain import Shown
from controlplane.core.state import State
from controlplane.engine.turn import Reply


class Clock(Protocol):
    """Unix nanoseconds that never go back."""

    def now_ns(self) -> int:
        """The time now."""
        ...


class Brain(Protocol):
    """The inbox of the turn and the state that it publishes. Any thread may call."""

    @property
    def clock(self) -> Clock:
        """The time by which the brain decides."""
        ...

    @property
    def state(self) -> State:
        """The published state; never changed."""
        ...

    @property
    def blocked(self) -> str:
        """Why the journal takes nothing now; "" when it does."""
        ...

    @property
    def depth(self) -> int:
        """Events that wait."""
        ...

    def post(self, event: Event, reply: Reply | None = None) -> bool:
        """Put an event in the inbox; False when it is full. `reply` is called in the brain's thread, once durable."""
        ...

    def lag_s(self) -> float:
        """How late our own loops run."""
        ...

    def degraded(self) -> bool:
        """Whether silence is not trusted now."""
        ...

    def strain(self) -> Shown:
        """What makes us see late though silence is trusted."""
        ...

    def vitals(self) -> Vitals:
        """How well this controller keeps up: its newest lag and its newest slow append."""
        ...

    def trusted_since_ns(self) -> int:
        """When this process began to listen, Unix ns: silence before it says nothing."""
        ...
