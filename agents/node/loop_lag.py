"""How late the event loop runs: the controller moves its deadlines by it."""

from __future__ import annotations

import asyncio

PROBE_EVERY_S = 0.1


class LoopLag:
    """The largest lateness of a timer since it was last asked for, in seconds."""

    def __init__(self) -> None:
        self._worst_s = 0.0
        self._due_at: float | None = None

    def take_s(self) -> float:
        """The worst lateness since the former call, a timer that is overdue just now included."""
        worst_s = self._worst_s
        if self._due_at is not None:
            worst_s = max(worst_s, asyncio.get_running_loop().time() - self._due_at)
        self._worst_s = 0.0
        return worst_s

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._due_at = loop.time() + PROBE_EVERY_S
            await asyncio.sleep(PROBE_EVERY_S)
            self._worst_s = max(self._worst_s, loop.time() - self._due_at)
