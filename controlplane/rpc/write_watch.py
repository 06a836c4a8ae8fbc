"""Peers that do not read: one timer for all writes under way, where one for each is a heap of thousands that are cancelled.

While our own loop stands still nobody's write can end, however fast the peer reads. So time counts in short looks, and a look
that comes late counts as little more than one that does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Stuck = Callable[[float], None]

LOOKS = 10
"""In the limit."""


class WriteWatch:
    """Tells of writes that have lasted too long, once each. One event loop only.

    Args:
        loop: the edge's.
        limit_s: how long a write may last, in time in which the loop ran; up to two looks more.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
        self._loop = loop
        self._limit_s = limit_s
        self._every_s = limit_s / LOOKS
        self._looks = 0
        self._under_way: dict[int, tuple[int, Stuck]] = {}  # in the order in which they began; one for each session
        self._number = 0
        self._due = False

    def watch(self, stuck: Stuck) -> int:
        """A write begins. `stuck` is called with the limit when it lasts longer. Returns the number to say that it is done."""
        self._number += 1
        self._under_way[self._number] = (self._looks, stuck)
        if not self._due:
            self._due = True
            self._loop.call_later(self._every_s, self._look)
        return self._number

    def done(self, number: int) -> None:
        """A write has ended, however."""
        self._under_way.pop(number, None)

    def _look(self) -> None:
        self._looks += 1
        for number, (since, stuck) in list(self._under_way.items()):
            if self._looks - since <= LOOKS:
                break
            del self._under_way[number]
            stuck(self._limit_s)
        self._due = bool(self._under_way)
        if self._due:
            self._loop.call_later(self._every_s, self._look)
