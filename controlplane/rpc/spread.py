"""Many small things on the edge's loop, a few at a time: between them beats are read, and nobody waits for all of them.

A generation is told to thousands of agents at once. In one go the loop would do nothing else for a second, which the brain
takes for what it is (silence means nothing while nobody listens) and convicts nobody for a whole lease. The same holds when
beats have to wait behind what the agents answer: while they do, the rounds keep a distance.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

Step = Callable[[], None]

AT_ONCE = 64
"""Steps in one round of the loop; with the messages that follow from them some ten milliseconds."""

PRESSED_NS = 150_000_000
"""When beats wait longer than this to be read, they come first; silence is distrusted above 0.4 s."""

DISTANCE_S = 0.1
"""From one round to the next while beats wait."""


class Spread:
    """Takes steps in the order in which they were added. One event loop only.

    What is added is looked at when its turn comes. The first steps are taken at once where nothing waits. `waits_ns`: how
    long beats wait now to be read.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, waits_ns: Callable[[], int]) -> None:
        self._loop = loop
        self._waits_ns = waits_ns
        self._waiting: deque[Iterator[Step]] = deque()  # bounded by effects and nodes, which are in the state
        self._due = False

    def add(self, steps: Iterable[Step]) -> None:
        """Take steps after those that wait."""
        self._waiting.append(iter(steps))
        if not self._due:
            self._round()

    def _round(self) -> None:
        left = AT_ONCE
        try:
            while self._waiting and left:
                taken = list(islice(self._waiting[0], left))
                for step in taken:
                    step()
                left -= len(taken)
                if left:
                    self._waiting.popleft()
        finally:  # a step that raises is a defect, which the loop reports; the others are still to be taken
            self._due = bool(self._waiting)
            if self._due and self._waits_ns() > PRESSED_NS:
                self._loop.call_later(DISTANCE_S, self._round)
            elif self._due:
                self._loop.call_soon(self._round)
