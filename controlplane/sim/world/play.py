"""Time that costs nothing: the clock jumps to whatever is next, and a tick happens when it could decide something."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.core.units import ms, seconds

if TYPE_CHECKING:
    from controlplane.sim.world.site import World

FIRST_NS = ms(100)
LAST_NS = seconds(2.0)


class Playing:
    """Plays a world up to times, with as few ticks as possible. `ticks`: how many there were."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ticks = 0
        self._wait_ns = FIRST_NS
        self._seen = -1

    def until(self, end_ns: int) -> None:
        """Let everything happen up to `end_ns`."""
        world = self.world
        while world.now_ns < end_ns:
            if world.changes != self._seen:
                self._seen, self._wait_ns = world.changes, FIRST_NS
            due_ns = world.now_ns + self._wait_ns
            self._run_until_change(min(due_ns, end_ns))
            if world.now_ns >= due_ns:
                world.tick()
                self.ticks += 1
                self._wait_ns = min(2 * self._wait_ns, LAST_NS)

    def _run_until_change(self, end_ns: int) -> None:
        """Up to `end_ns`, or to the first thing that a tick may have to look at."""
        world, kernel = self.world, self.world.kernel
        seen = world.changes
        while world.changes == seen:
            next_ns = kernel.next_ns
            if next_ns is None or next_ns >= end_ns:
                kernel.run_until(end_ns)
                return
            kernel.run_until(next_ns)
