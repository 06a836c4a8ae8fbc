"""Acknowledgements of agents' reports: together, and after everything that agents wait for.

An agent needs to know that a report is durable only to forget it. While a generation is told to thousands of nodes, each of
which reports at once, an acknowledgement to each is as much work as the generation itself. So they wait a moment, later ones
take the place of earlier ones, and they let pass what waits in the spread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial

from controlplane.rpc.spread import Spread, Step

WAITS_S = 0.05
"""How long one waits for company."""

Acknowledge = Callable[[int], None]
"""Tells one peer that its reports up to a number are durable."""


class Acks:
    """What is to be acknowledged, and by whom. One event loop only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, spread: Spread) -> None:
        self._loop = loop
        self._spread = spread
        self._due: dict[Acknowledge, int] = {}  # bounded by open sessions
        self._planned = False

    def add(self, acknowledge: Acknowledge, sequence: int) -> None:
        """All reports up to this one are durable: to be told with the next ones."""
        self._due[acknowledge] = sequence
        if not self._planned:
            self._planned = True
            self._loop.call_later(WAITS_S, self._tell)

    def _tell(self) -> None:
        self._spread.add(self._telling())

    def _telling(self) -> Iterator[Step]:
        """A step for each that is due when its turn comes."""
        while self._due:
            acknowledge = next(iter(self._due))
            yield partial(acknowledge, self._due.pop(acknowledge))
        self._planned = False
