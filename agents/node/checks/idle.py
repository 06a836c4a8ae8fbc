"""Light checks of a node that nobody uses, so that what breaks in the idle is known before a job gets the node.

They take a bounded share of one processor, run only while no process of a rank lives here, and give way at once when one comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from agents.node.checks.desk import HOST_DEADLINE_S, CheckDesk
from agents.node.checks.process import Order

CPU_SHARE = 0.01
"""Of one processor, at most: the pause after a check is at least so many times as long as it took."""
LOOK_S = 0.05
"""How soon a check gives way to a rank."""
NICENESS = ("--niceness", "19")
ORDERS = (
    Order("arithmetic", HOST_DEADLINE_S, ("--seconds", "0.2", *NICENESS)),
    Order("memory", HOST_DEADLINE_S, NICENESS),
    Order("network", HOST_DEADLINE_S, NICENESS),
)
"""In turn. The disk is left to the checks of a node that comes back: idle nodes should not wear their disks. So are devices:
opening one takes memory and seconds that a job which comes would wait for."""

log = structlog.get_logger(__name__)


class IdleChecks:
    """`run` it until cancelled. `interval_s`: from one check to the next, 0: none."""

    def __init__(self, desk: CheckDesk, busy: Callable[[], frozenset[int] | None], interval_s: float) -> None:
        self._desk = desk
        self._busy = busy
        self._interval_s = interval_s
        self._next = 0

    async def run(self) -> None:
        """One light check after the other, with pauses."""
        if self._interval_s <= 0:
            await asyncio.Event().wait()
        pause_s = self._interval_s
        while True:
            await asyncio.sleep(pause_s)
            took_s = await self.once() if self._busy() is None else 0.0
            pause_s = max(self._interval_s, took_s / CPU_SHARE)

    async def once(self) -> float:
        """The next check, broken off as soon as a rank's process comes; seconds that it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        work = asyncio.create_task(self._desk.light((ORDERS[self._next],)), name="light check")
        try:
            while not work.done():
                if self._busy() is not None:
                    work.cancel()
                    log.info("check.gave_way", check=ORDERS[self._next].check)
                    break
                await asyncio.wait({work}, timeout=LOOK_S)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
        if not work.cancelled() and work.exception() is None:
            self._next = (self._next + 1) % len(ORDERS)
        return loop.time() - began
