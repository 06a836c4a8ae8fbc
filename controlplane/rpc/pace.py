"""How fast peers are read, by name: a flood is read at a bounded rate, a reconnect loop is slowed down, and nobody else notices.

Limits are each name's own and none is the site's, so that a storm of all 6,250 nodes meets none of them. They outlive sessions: a
new one does not begin with a full purse.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from controlplane.config import Settings
from controlplane.core.identity import CELL, RELAY

BURST = 2_000
"""Messages of an agent at once: all reports of 64 ranks that start, or one message of the largest size."""
BYTES_PER_TOKEN = 8 << 10
"""Larger messages cost as many as they have of these."""
REPORT_TOKENS = 4
"""What a report costs beyond a beat: the brain's turn and a record."""
ROWS_PER_TOKEN = 64
"""And beats with many ranks as many as they have of these."""
MESSAGES_PER_S = 50.0
"""What an agent may say all the time beside its beats; honest ones stay below one."""
BEAT_FACTOR = 4.0
"""Beats beyond the interval: one that is early for each final step, and clocks that drift."""
MANY = 64
"""A cell or a relay speaks for many nodes: so many times an agent's rate."""
HELLO_BURST, HELLOS_PER_S = 20.0, 1.0
"""An agent's own back-off opens five sessions in its first three seconds and one in five seconds after that."""
HELLO_BYTES = 256 << 10
"""A hello that has several of these costs as many sessions more: all of it is believed, or looked through at least."""
HOLD_S, MAX_HELD = 1.0, 4
"""Who dials too often waits so long for its refusal, so many streams of a name at a time."""
LEAST_REST_S, LONGEST_REST_S = 0.25, 5.0
MAX_NAMES = 20_000
"""Names whose limits are remembered: three for each node of the largest site. The one that was seen longest ago goes first."""


class Pace:
    """A token bucket that looks at the clock only when it is empty, so that an honest beat costs a subtraction.

    What was gained while it was not empty is found then, a full purse at most: any time of `T` seconds lets pass no more
    than twice the burst and `T` times the rate.
    """

    __slots__ = ("_clock", "_left", "_since_s", "burst", "rate_per_s")

    def __init__(self, rate_per_s: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate_per_s = rate_per_s
        self.burst = burst
        self._left = burst
        self._clock = clock
        self._since_s = clock()

    def charge(self, cost: float = 1.0) -> bool:
        """Pay for something that has happened. False: it was too fast, wait for `rest_s`."""
        self._left -= cost
        return self._left >= 0 or self._filled() >= 0

    def take(self) -> bool:
        """Pay for something that may happen. False: it may not, and nothing was paid."""
        if self._left < 1 and self._filled() < 1:
            return False
        self._left -= 1
        return True

    def rest_s(self) -> float:
        """How long to wait now, seconds; 0: no longer."""
        if self._filled() >= 0:
            return 0.0
        return min(LONGEST_REST_S, max(LEAST_REST_S, -self._left / self.rate_per_s))

    def debt_s(self) -> float:
        """How long until what was charged is paid, seconds: later ones wait for earlier ones, a whole burst at most."""
        return max(0.0, -self._filled() / self.rate_per_s)

    def _filled(self) -> float:
        now_s = self._clock()
        gained = (now_s - self._since_s) * self.rate_per_s
        self._left = min(self.burst, max(-self.burst, self._left) + gained)
        self._since_s = now_s
        return self._left


@dataclass(slots=True)
class PeerPace:
    """The limits of one name: its messages, and the sessions that it opens."""

    messages: Pace
    hellos: Pace
    held: int = 0

    def weigh_hello(self, size: int) -> None:
        """The hello that was let in had so many bytes."""
        self.hellos.charge(size // HELLO_BYTES)

    async def hold(self) -> None:
        """Let who dials too often wait for its refusal. Those beyond `MAX_HELD` are told at once."""
        if self.held >= MAX_HELD:
            return
        self.held += 1
        try:
            await asyncio.sleep(HOLD_S)
        finally:
            self.held -= 1


class Paces:
    """The limits of all names that were seen. One event loop only."""

    def __init__(self, settings: Settings) -> None:
        self._own_per_s = MESSAGES_PER_S + BEAT_FACTOR * 1_000 / settings.beat_ms
        self._known: OrderedDict[str, PeerPace] = OrderedDict()

    def of(self, subject: str) -> PeerPace:
        """The limits of <kind>/<name>."""
        found = self._known.get(subject)
        if found is None:
            if len(self._known) >= MAX_NAMES:
                self._known.popitem(last=False)
            found = self._known[subject] = self._fresh(subject.partition("/")[0])
        self._known.move_to_end(subject)
        return found

    def _fresh(self, kind: str) -> PeerPace:
        many = MANY if kind in (CELL, RELAY) else 1
        return PeerPace(Pace(many * self._own_per_s, many * BURST), Pace(HELLOS_PER_S, HELLO_BURST))
