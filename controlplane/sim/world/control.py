"""Which controller leads, how one ends and the next one begins, and those that do not know yet that they no longer lead."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from controlplane.core.state import State
from controlplane.core.units import seconds
from controlplane.engine.ports import Snapshot
from controlplane.sim.journal import CrashPoint
from controlplane.sim.world.controller import Controller

if TYPE_CHECKING:
    from controlplane.sim.world.site import World


SNAPSHOT_RECORDS = 500
"""Between two snapshots; a quarter of what production waits, so that both the snapshot and its tail are read."""

LEASE_S = 10.0
"""A controller that cannot renew its lease ends by itself after so long."""


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
        self._kept: State | None = None
        self._stored = 0

    def committed(self, state: State) -> None:
        """A state was published; now and then one is kept for the snapshot that a follower would have written by then."""
        if self._kept is None or state.revision >= self._kept.revision + SNAPSHOT_RECORDS:
            self._kept = state

    def begin(self) -> Controller:
        """A new process takes the leadership and reads the journal: the newest snapshot, then what came after it."""
        self.restarts += 1
        if self._kept is not None and self._kept.revision > self._stored:
            body = self._kept.to_json()
            digest = hashlib.sha256(body.encode()).hexdigest()
            self.world.journal.open_again().store_snapshot(Snapshot(self._kept.revision, digest, body))
            self._stored = self._kept.revision
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
            stale = self.leader
            self.stale.append(stale)
            self.world.kernel.after(LEASE_S, lambda: self.ended(stale) if stale.alive else None)
        self.begin()

    def back(self) -> None:
        """A controller comes back, unless one leads; on a full disk it tries again until it can."""
        if self.leader is not None:
            return
        if self.world.journal.storage.full:
            self.world.kernel.after(self.back_after_s, self.back)
            return
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
