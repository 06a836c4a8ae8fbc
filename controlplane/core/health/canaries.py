"""Canaries: a simulated device on a node without ranks fails on purpose, and what detection makes of it is written down.

They keep the figures of detection honest while nothing fails. Their faults come the way of all others, and are only observed
whatever any table says: they take no rank, cordon no node, end no trial and count against no budget. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from controlplane.core.units import ms

VENDOR = "canary"
"""Vendor of a canary's fault. No table judges it."""
CODE = "CANARY"
REASON = "a canary: raised on purpose, to measure detection"
MAX_FLYING = 64
"""Canaries that may be awaited at once, and released within `APART_MS`."""
APART_MS = 60_000
"""Between two canaries of one node: events of one code that are closer may be told as one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryPolicy:
    """`every_ms`: one canary is released so often; 0: none ever. `deadline_ms`: one that is not recorded by then is missed."""

    every_ms: int = 0
    deadline_ms: int = 60_000


class Outcome(StrEnum):
    """How a canary ended. CALLED_OFF: its node could not take it, or is not heard any more; it says nothing of detection."""

    CAUGHT = "caught"
    MISSED = "missed"
    CALLED_OFF = "called_off"


@dataclass(frozen=True, slots=True)
class Canary:
    """One that is awaited. `at_ns`: when it was released, Unix ns."""

    number: int
    node: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class CanaryBook:
    """Those that are awaited, the oldest first, and how the others ended. `last_ns`: of the newest release. `resting`: released
    of late, whose nodes are left alone for a while. `late_node`, `late_ns`: the newest that was missed."""

    released: int = 0
    last_ns: int = 0
    flying: tuple[Canary, ...] = ()
    resting: tuple[Canary, ...] = ()
    caught: int = 0
    missed: int = 0
    called_off: int = 0
    late_node: str = ""
    late_ns: int = 0

    def awaited(self, node: str, number: int) -> Canary | None:
        """The canary of this number, if this node is its own."""
        return next((one for one in self.flying if (one.node, one.number) == (node, number)), None)

    def rested(self, now_ns: int) -> tuple[Canary, ...]:
        """Those whose nodes are still left alone."""
        return tuple(one for one in self.resting if now_ns - one.at_ns < ms(APART_MS))


NO_CANARIES = CanaryBook()
