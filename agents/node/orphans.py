"""Ranks run on without a controller, for a stated time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from agents.node.durable import AgentMemory
from agents.node.endings import Endings

STOP_GRACE_S = 5.0
SHOW_EVERY_S = 10.0

log = structlog.get_logger(__name__)


class OrphanWatch:
    """Stops all ranks when no controller has been heard for the grace that the last one dictated."""

    def __init__(self, memory: AgentMemory, endings: Endings, living: Callable[[], int]) -> None:
        self._memory = memory
        self._endings = endings
        self._living = living
        self._away_since: float | None = time.monotonic()
        self._changed = asyncio.Event()
        self._stopped = False

    def controller_here(self) -> None:
        """A controller has welcomed this node."""
        self._away_since = None
        self._stopped = False
        self._changed.set()

    def controller_away(self) -> None:
        """The session has ended."""
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._changed.set()

    def left_s(self, now: float) -> float | None:
        """Seconds until the ranks are stopped; None while a controller is here."""
        if self._away_since is None:
            return None
        return max(0.0, self._away_since + self._memory.orphan_grace_ms / 1000 - now)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            self._changed.clear()
            left_s = self.left_s(time.monotonic())
            if left_s is None or self._stopped:
                await self._changed.wait()
                continue
            if left_s <= 0:
                self._stopped = True
                await self._stop_ranks()
                continue
            if self._living():
                log.warning("controller.away", orphan_grace_left_s=round(left_s, 1), living_hosts=self._living())
            with suppress(TimeoutError):
                # `wait_for` of Python 3.11 forgets that it was cancelled when what it waits for has just come.
                async with asyncio.timeout(min(left_s, SHOW_EVERY_S)):
                    await self._changed.wait()

    async def _stop_ranks(self) -> None:
        if not self._living():
            return
        grace_ms = self._memory.orphan_grace_ms
        log.error("ranks.orphaned", orphan_grace_ms=grace_ms, living_hosts=self._living())
        left = await self._endings.fence_all(
            grace_s=STOP_GRACE_S, reason=f"no controller for longer than orphan_grace_ms {grace_ms}"
        )
        log.info("ranks.stopped", not_empty=left)
