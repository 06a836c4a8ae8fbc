"""Executioner and exit witness: ends sessions of processes and knows when one has no process left."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from agents.node.processes import SessionIdentity, is_alive, strike

FIRST_LOOK_S = 0.002
FAST_LOOK_S = 0.05
SLOW_LOOK_S = 1.0
STUBBORN_AFTER_S = 5.0
"""A process that SIGKILL has not ended by then sits in the kernel; it is looked at slowly, and shown."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class KillPlan:
    """When a session gets which signal; moments of the monotonic clock. May be hurried while it is carried out."""

    kill_at: float
    terminate: bool = False
    leader_kill_at: float = 0.0
    hurried: asyncio.Event = field(default_factory=asyncio.Event)

    def hurry(self, kill_at: float) -> None:
        """Kill everybody no later than `kill_at`."""
        self.kill_at = min(self.kill_at, kill_at)
        self.leader_kill_at = min(self.leader_kill_at, self.kill_at)
        self.hurried.set()


async def empty_session(session: SessionIdentity, plan: KillPlan) -> None:
    """Carry out `plan` and return when no process of the session is left, which /proc must say; however long it takes.

    Callers that cannot wait for ever wait for a task of this beside a time limit, and leave the task running.
    """
    started_at = time.monotonic()
    look_s = FIRST_LOOK_S
    terminated = shown = False
    while True:
        now = time.monotonic()
        number: signal.Signals | None = None
        if now >= plan.kill_at:
            number = signal.SIGKILL
        elif plan.terminate and not terminated:
            number, terminated = signal.SIGTERM, True
        left = await asyncio.to_thread(strike, session, number, spare_leader=now < plan.leader_kill_at)
        if not left:
            return
        look_s = min(look_s * 2, FAST_LOOK_S)
        if now - max(plan.kill_at, started_at) > STUBBORN_AFTER_S:
            look_s = SLOW_LOOK_S
            if not shown:
                shown = True
                log.error("session.not_empty", session=session.leader, pids=left[:32])
        plan.hurried.clear()
        due_in_s = [at - now for at in (plan.kill_at, plan.leader_kill_at) if at > now]
        try:
            async with asyncio.timeout(min(look_s, *due_in_s) if due_in_s else look_s):  # see `orphans`
                await plan.hurried.wait()
        except TimeoutError:
            continue


class Witness:
    """Knows at once when a session's leader ends, through a pidfd; no polling."""

    def __init__(self) -> None:
        self._watched: dict[int, int] = {}

    def watch(self, session: SessionIdentity, on_end: Callable[[], None]) -> bool:
        """Call `on_end` once when the leader ends. False, and no call, when it is already gone."""
        if session.leader in self._watched:
            return True
        try:
            descriptor = os.pidfd_open(session.leader)
        except ProcessLookupError:
            return False
        if not is_alive(session.leader, session.start_time):
            os.close(descriptor)
            return False

        def ended() -> None:
            self.unwatch(session)
            on_end()

        self._watched[session.leader] = descriptor
        asyncio.get_running_loop().add_reader(descriptor, ended)
        return True

    def unwatch(self, session: SessionIdentity) -> None:
        """Stop watching; harmless when it was not watched."""
        descriptor = self._watched.pop(session.leader, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    def close(self) -> None:
        """Stop watching all."""
        for leader in list(self._watched):
            self.unwatch(SessionIdentity(leader, 0))
