"""Peers that do not read: one timer for all writes under way, where one for each is a heap of thousands that are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Stuck = Callable[[float], None]


class WriteWatch:
    """Tells of writes that have lasted too long, once each. One event loop only.

    Args:
        loop: the edge's.
        limit_s: how long a write may last.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
        self._loop = loop
        self._limit_s = limit_s
        self._under_way: dict[int, tuple[float, Stuck]] = {}  # in the order in which they began; one for each session
        self._number = 0
        self._due = False

    def watch(self, stuck: Stuck) -> int:
        """A write begins. `stuck` is called with the limit when it lasts longer. Returns the number to say that it is done."""
        self._number += 1
        self._under_way[self._number] = (self._loop.time(), stuck)
        if not self._due:
            self._due = True
            self._loop.call_later(self._limit_s, self._look)
        return self._number

    def done(self, number: int) -> None:
        """A write has ended, however."""
        self._under_way.pop(number, None)

    def _look(self) -> None:
        self._due = False
        now = self._loop.time()
        for number, (since, stuck) in list(self._under_way.items()):
            if since + self._limit_s > now:
                self._due = True
                self._loop.call_at(since + self._limit_s, self._look)
                return
            del self._under_way[number]
            stuck(self._limit_s)
