"""Which controller leads, how one ends and the next one begins, and those that do not know yet that they no longer lead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.core.units import seconds
from controlplane.sim.journal import CrashPoint
from controlplane.sim.world.controller import Controller

if TYPE_CHECKING:
    from controlplane.sim.world.site import World


class Control:
    """The controllers of a site. `leader` is the newest one; None: nobody leads.

    `stale`: earlier ones that live on; agents whose sessions are with them notice when their append is refused.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.leader: Controller | None = None
        self.stale: list[Controller] = []
        self.restarts = 0
        self.back_after_s = 0.5
        self._crashed: list[CrashPoint] = []

    def begin(self) -> Controller:
        """A new process takes the leadership and reads the journal."""
        self.restarts += 1
        controller = Controller(self.world, self.world.journal, self.restarts)
        self.leader = controller
        self.world.journal = controller.journal
        self.world.began(controller)
        return controller

    def ended(self, controller: Controller) -> None:
        """The process found out that it no longer leads, and ended; its sessions are reset."""
        controller.alive = False
        if controller in self.stale:
            self.stale.remove(controller)
        if self.leader is controller:
            self.leader = None
        self._reset_sessions(controller)

    def crashed(self, controller: Controller) -> None:
        """The process was killed in the middle of a turn; the next one comes by itself."""
        self._crashed.extend(point for point in (controller.journal.crash,) if point)
        self.ended(controller)
        self.world.kernel.after(self.back_after_s, self.back)

    def crashes(self) -> tuple[CrashPoint, ...]:
        """Where processes were killed so far."""
        return tuple(self._crashed)

    def kill(self) -> None:
        """SIGKILL between two turns; nobody leads until `begin`."""
        if self.leader is not None:
            self.ended(self.leader)

    def replace(self) -> None:
        """Another process takes the leadership while the former one lives on and does not know."""
        if self.leader is not None:
            self.stale.append(self.leader)
        self.begin()

    def back(self) -> None:
        """A controller comes back, unless one leads."""
        if self.leader is None:
            self.begin()
            self.dial_all(self.world.timings.reconnect_s)

    def dial_all(self, delay_s: float) -> None:
        """Every agent without a session dials after a while, and so does the cell agent."""
        world = self.world
        world.kernel.after(delay_s, lambda: world.agents.hello_all([n for n in world.nodes.values() if not n.session]))
        world.kernel.after(delay_s, world.cell.redial)

    def stall(self, duration_s: float) -> None:
        """The leader's brain does nothing for a while."""
        if self.leader is not None:
            self.leader.stall(duration_s)

    def _reset_sessions(self, controller: Controller) -> None:
        for node in self.world.nodes.values():
            if node.controller is controller:
                node.controller = None
        if self.leader is not None:  # another one leads already: its agents dial again at once
            self.dial_all(self.world.timings.reconnect_s)

    def wake_ns(self) -> int:
        """When the leader's brain is free, Unix ns of the world."""
        return self.leader.busy_until_ns if self.leader is not None else self.world.now_ns + seconds(1.0)
