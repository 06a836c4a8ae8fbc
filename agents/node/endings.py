"""How rank hosts end on this node: fenced, exited by themselves, or vanished. Every end leads to an empty session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from google.protobuf import json_format
from phalanx.v1 import local_pb2, types_pb2

from agents.node.connections import Connections, Role
from agents.node.executioner import KillPlan, Witness, empty_session
from agents.node.hosts import HostRecord
from agents.node.processes import SessionIdentity, sessions_of_host
from agents.node.state import NodeState

RECONNECT_GRACE_S = 3.0
RESTART_GRACE_S = 5.0
HOST_EXIT_GRACE_S = 0.05
"""The rank host may end by itself after its report. It is not waited for longer: its accelerators are wanted back."""
DRAIN_LIMIT_S = 0.2
FENCE_LIMIT_S = 30.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Ending:
    plan: KillPlan
    task: asyncio.Task[None]


class Endings:
    """Carries out and witnesses ends. A host has at most one ending under way; a second order hurries it."""

    def __init__(self, state: NodeState, connections: Connections, *, node: str, exits_folder: Path) -> None:
        self._state = state
        self._connections = connections
        self._node = node
        self._exits_folder = exits_folder
        self._witness = Witness()
        self._endings: dict[str, _Ending] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._silences: dict[str, asyncio.TimerHandle] = {}

    def adopt(self) -> None:
        """Take over the hosts of the former agent: living ones are watched, gone ones are concluded at once.

        A process that is gone cannot come back, so nothing is waited for. A living one that stays silent is LOST.
        """
        living = 0
        for record in list(self._state.table):
            if record.empty:
                continue
            if record.exited or record.fence_reason:
                self._start(record, KillPlan(kill_at=0.0))
            elif self.watch(record):
                living += 1
                self._expect(record.identity.host_id, RESTART_GRACE_S)
        log.info("hosts.adopted", known=len(self._state.table.records), living=living)

    def watch(self, record: HostRecord) -> bool:
        """Watch the host's process; one that is already gone is concluded. Returns whether it lives."""
        host_id = record.identity.host_id

        def gone() -> None:
            self._spawn(self._vanished(host_id), f"vanished {host_id}")

        living = self._witness.watch(_session(record), gone)
        if not living:
            gone()
        return living

    def host_exit(self, host_id: str, exit_info: types_pb2.ExitInfo, moment: float) -> None:
        """The rank host has reaped its process. The rest of the session is killed; the host may end by itself first."""
        record = self._state.table.records[host_id]
        self._state.table.exit_seen(host_id, exit_info, moment)
        self._state.host_changed(host_id)
        if not record.empty:
            now = time.monotonic()
            self._start(record, KillPlan(kill_at=now, leader_kill_at=now + HOST_EXIT_GRACE_S))

    def silent(self, host_id: str) -> None:
        """A connection has closed. While the host's process lives, nothing is concluded before a grace has passed."""
        record = self._state.table.get(host_id)
        if record is not None and not record.exited:
            self._expect(host_id, RECONNECT_GRACE_S)

    async def fence(self, host_id: str, *, grace_s: float, reason: str, limit_s: float = FENCE_LIMIT_S) -> bool:
        """End a host; True when no process of its session is left, and then its end is on record."""
        record = self._state.table.get(host_id)
        if record is None:
            return await self._fence_unknown(host_id, grace_s, reason, limit_s)
        if not record.empty:
            if not record.exited:
                record.fence_reason = record.fence_reason or reason or "no reason given"
                self._state.save()
            plan = KillPlan(kill_at=time.monotonic() + grace_s, terminate=grace_s > 0)
            ending = self._start(record, plan)
            await asyncio.wait({ending.task}, timeout=limit_s)
        if record.empty:
            self._state.host_changed(host_id)
        return record.empty

    async def fence_all(self, *, grace_s: float, reason: str) -> list[str]:
        """End every host; returns those of which processes are left."""
        host_ids = [record.identity.host_id for record in self._state.table if not record.empty]
        ended = await asyncio.gather(*(self.fence(host_id, grace_s=grace_s, reason=reason) for host_id in host_ids))
        return [host_id for host_id, empty in zip(host_ids, ended, strict=True) if not empty]

    def kill_late_arrival(self, host_id: str, session: SessionIdentity) -> None:
        """A process came with the id of a host whose end is on record: the controller counts on its being gone."""
        self._state.counters.add("late_arrivals_killed")
        log.warning("host.late_arrival", host_id=host_id, session=session.leader)
        self._spawn(empty_session(session, KillPlan(kill_at=0.0)), f"late {host_id}")

    async def close(self) -> None:
        """Stop witnessing; what runs is left alone."""
        self._witness.close()
        for timer in self._silences.values():
            timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fence_unknown(self, host_id: str, grace_s: float, reason: str, limit_s: float) -> bool:
        sessions = await asyncio.to_thread(sessions_of_host, host_id, self._node)
        plan = KillPlan(kill_at=time.monotonic() + grace_s, terminate=grace_s > 0)
        tasks = {self._spawn(empty_session(session, plan), f"unknown {host_id}") for session in sessions}
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=limit_s)
            if pending:
                return False
        if self._state.table.get(host_id) is not None:
            # It registered while we looked: now it is a known host, and fenced as one.
            return await self.fence(host_id, grace_s=grace_s, reason=reason, limit_s=limit_s)
        self._state.table.add_absent(host_id, reason or "no reason given", time.monotonic())
        self._state.host_changed(host_id)
        log.info("host.fenced_unknown", host_id=host_id, sessions=len(sessions), reason=reason)
        return True

    async def _vanished(self, host_id: str) -> None:
        """The host's process is gone: its last words are heard, then its group is killed, then it is EXITED."""
        await self._connections.drained(host_id, DRAIN_LIMIT_S)
        record = self._state.table.get(host_id)
        if record is None or record.empty:
            return
        if not record.exited and host_id not in self._endings:
            log.warning("host.vanished", host_id=host_id, host_pid=record.identity.host_pid)
        self._start(record, KillPlan(kill_at=0.0))

    def _start(self, record: HostRecord, plan: KillPlan) -> _Ending:
        host_id = record.identity.host_id
        ending = self._endings.get(host_id)
        if ending is not None:
            ending.plan.hurry(plan.kill_at)
            return ending
        ending = _Ending(plan, self._spawn(self._end(record, plan), f"end {host_id}"))
        self._endings[host_id] = ending
        return ending

    async def _end(self, record: HostRecord, plan: KillPlan) -> None:
        host_id = record.identity.host_id
        try:
            await empty_session(_session(record), plan)
            # Its last words may still lie in the socket: how the process ended is worth a moment.
            await self._connections.drained(host_id, DRAIN_LIMIT_S)
            self._read_exit_file(record)
            self._state.table.group_empty(host_id, time.monotonic())
        finally:
            del self._endings[host_id]
        self._witness.unwatch(_session(record))
        self._connections.close(host_id)
        self._state.host_changed(host_id)
        assert record.exit is not None  # group_empty has set it
        log.info(
            "host.exited",
            host_id=host_id,
            job=record.identity.job_name,
            uid=record.identity.job_uid,
            rank=record.rank,
            generation=record.generation,
            observed=record.exit.observed,
            code=record.exit.code,
            signal=record.exit.signal,
            final_marker=record.exit.final_marker,
            fence_reason=record.fence_reason,
        )

    def _read_exit_file(self, record: HostRecord) -> None:
        """A host to which no agent listened for long enough has left its last words in a file."""
        path = self._exits_folder / f"{record.identity.host_id}.json"
        if record.exit is not None or not path.is_file():
            return
        try:
            left = json_format.Parse(path.read_text(encoding="utf-8"), local_pb2.HostExit())
        except (OSError, ValueError, json_format.ParseError) as error:
            log.warning("exit_file.unreadable", host_id=record.identity.host_id, reason=str(error))
            return
        self._state.table.exit_seen(record.identity.host_id, left.exit, time.monotonic())

    def _expect(self, host_id: str, grace_s: float) -> None:
        former = self._silences.pop(host_id, None)
        if former is not None:
            former.cancel()
        self._silences[host_id] = asyncio.get_running_loop().call_later(grace_s, self._still_silent, host_id)

    def _still_silent(self, host_id: str) -> None:
        del self._silences[host_id]
        record = self._state.table.get(host_id)
        if record is None or record.exited or self._connections.get(host_id, Role.HOST) is not None:
            return
        rank_connected = self._connections.get(host_id, Role.RANK) is not None
        log.warning("host.silent", host_id=host_id, host_pid=record.identity.host_pid, rank_connected=rank_connected)
        if not rank_connected and not record.lost:
            record.lost = True
            self._state.host_changed(host_id)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        """Nobody awaits these tasks to their end: what breaks one must be seen."""
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("ending.broke", task=task.get_name(), exc_info=task.exception())


def _session(record: HostRecord) -> SessionIdentity:
    identity = record.identity
    return SessionIdentity(identity.host_pid, identity.host_start, identity.host_id if identity.contained else "")
