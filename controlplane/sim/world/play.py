"""Time that costs nothing: the clock jumps to whatever is next, and a tick happens when it could decide something.

As `core.due` demands: one usual interval after anything happened there is a tick; once a tick has written nothing, the next one
is when time alone could change a decision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.core.due import due_ns
from controlplane.core.units import seconds
from controlplane.engine.turn import PROBE_NS
from controlplane.sim.world.controller import TICK_NS

if TYPE_CHECKING:
    from controlplane.sim.world.controller import Controller
    from controlplane.sim.world.site import World

LONGEST_NS = seconds(600.0)
"""A tick that nobody needs now and then costs nothing, and ends every doubt."""

NEVER_NS = 2**62


class Playing:
    """Plays a world up to times, with as few ticks as possible. `ticks`: how many there were."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ticks = 0
        self._seen = -1
        self._tick_ns = NEVER_NS

    def until(self, end_ns: int) -> None:
        """Let everything happen up to `end_ns`."""
        world = self.world
        while world.now_ns < end_ns:
            if world.changes != self._seen:
                self._seen = world.changes
                self._tick_ns = min(self._tick_ns, world.now_ns + TICK_NS)
            elif self._tick_ns == NEVER_NS:
                self._tick_ns = self._due_ns()
            world.kernel.run_until(min(self._tick_ns, end_ns), lambda: world.changes != self._seen)
            if world.now_ns >= self._tick_ns:
                self._tick_ns = NEVER_NS
                world.tick()
                self.ticks += 1

    def _due_ns(self) -> int:
        """When the next tick of any controller could decide something."""
        control = self.world.control
        living = [*control.stale, *([control.leader] if control.leader else [])]
        waits = [self._wait_ns(controller) for controller in living]
        return self.world.now_ns + min(waits, default=LONGEST_NS)

    def _wait_ns(self, controller: Controller) -> int:
        engine, now_ns = controller.engine, controller.clock_ns()
        if controller.busy:
            return max(TICK_NS, controller.busy_until_ns - self.world.now_ns)
        if engine.blocked:
            return PROBE_NS
        stepping = self.world.gangs.stepping()
        due = due_ns(engine.state, controller.soft, now_ns, self.world.machine.policy, stepping=stepping)
        if due is None:
            return LONGEST_NS
        return min(LONGEST_NS, max(TICK_NS, due - now_ns))
