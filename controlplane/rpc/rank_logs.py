"""The log of a rank, whichever process holds it: a follow goes on with the rank's next process, until the job has ended.

An agent's stream ends with its process, and also when the agent renews its certificate, restarts, or is lost with its node. All
of them look the same from here, so that a follow asks again from the byte that it has reached: a process that has ended
answers with nothing, and one that goes on leaves no gap and no repeat.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

from phalanx.v1 import agent_pb2, job_pb2

from controlplane.core.jobs import NONE, Job, host_id
from controlplane.rpc.agent_service import AgentSession
from controlplane.rpc.errors import RequestRefused, refuse
from controlplane.rpc.history import History
from controlplane.rpc.logs import LogRelays, read_relay
from controlplane.rpc.sessions import Registry
from controlplane.rpc.site import Site

DEFAULT_TAIL_BYTES = 64 << 10
MAX_TAIL_BYTES = 16 << 20
FOLLOW_S = 0.5
"""Between two looks for what a followed rank has written since its stream ended."""


@dataclass(frozen=True, slots=True)
class _Process:
    """The process whose log is read: its identifier, and its node's name."""

    host_id: str
    node: str


@dataclass(slots=True)
class _Position:
    """What a reader has: everything of `host_id` before `offset`. None: the agent does not say."""

    host_id: str
    offset: int | None


class RankLogs:
    """Reads logs of ranks for operators."""

    def __init__(self, site: Site, agents: Registry, relays: LogRelays, history: History) -> None:
        self._site = site
        self._agents = agents
        self._relays = relays
        self._history = history

    async def read(self, job: Job, request: job_pb2.ReadLogsRequest) -> AsyncIterator[job_pb2.ReadLogsResponse]:
        """What a reader asked for.

        Raises:
            RequestRefused: there is no such process, or its agent is away or silent.
        """
        rank = int(request.rank)
        if request.previous:
            async for chunk in self._pass(job, rank, await self._previous(job, rank), request, None):
                yield chunk
            return
        at = _Position(request.after_host_id, request.after_offset) if request.after_host_id else None
        process = await (self._held(job, rank) if request.follow else self._newest(job, rank))
        async for chunk in self._pass(job, rank, process, request, at):
            at = _after(chunk)
            yield chunk
        while request.follow and at is not None and at.offset is not None:
            before = _Position(at.host_id, at.offset)
            ended = self._ended(job.uid)
            try:
                now = self._site.state.jobs.get(job.uid, job)
                async for chunk in self._pass(now, rank, await self._newest(now, rank), request, at):
                    news, at = bool(chunk.data) or chunk.host_id != at.host_id, _after(chunk)
                    if news:
                        yield chunk
            except RequestRefused as refused:
                # The agent may come back, and the rank may move away from it: the reader waits for either.
                if ended or refused.refusal.code != "unavailable":
                    return
            if ended and at == before:
                return
            await asyncio.sleep(FOLLOW_S)

    def _ended(self, uid: str) -> bool:
        job = self._site.state.jobs.get(uid)
        return job is None or job.terminal

    async def _pass(
        self, job: Job, rank: int, process: _Process, request: job_pb2.ReadLogsRequest, at: _Position | None
    ) -> AsyncIterator[job_pb2.ReadLogsResponse]:
        """One stream of the agent, to its end."""
        session = self._agents.current.get(process.node)
        if session is None:
            text = f"the log of rank {rank} is on {process.node}, whose agent is not connected"
            refuse("unavailable", "AGENT_AWAY", text)
        stream_id, relay = self._relays.begin(process.node)
        try:
            order = agent_pb2.OpenLog(
                stream_id=stream_id,
                host_id=process.host_id,
                job_uid=job.uid,
                rank=rank,
                follow=request.follow,
                tail_bytes=min(request.tail_bytes or DEFAULT_TAIL_BYTES, MAX_TAIL_BYTES),
            )
            if at is not None:
                order.offset = (at.offset or 0) if at.host_id == process.host_id else 0
            cast("AgentSession", session).open_log(order)
            async for chunk in read_relay(relay):
                yield chunk
        finally:
            self._relays.drop(stream_id)

    async def _held(self, job: Job, rank: int) -> _Process:
        """The process that holds the rank or held it last, as soon as there is one.

        A process that is about to hold some rank says nothing of which: following it could end in another rank's log.
        """
        now: Job | None = job
        while now is not None and now.placed and not now.terminal and await self._holder(now, rank) == NONE:
            await asyncio.sleep(FOLLOW_S)
            now = self._site.state.jobs.get(job.uid)
        return await self._newest(now or job, rank)

    async def _holder(self, job: Job, rank: int) -> int:
        serial = int(job.rank_host[rank])
        return serial if serial != NONE else await self._history.last_holder(job.uid, rank)

    async def _newest(self, job: Job, rank: int) -> _Process:
        """The newest process that held the rank, or one that was started on its node to hold a rank."""
        if not job.placed:
            refuse("conflict", "NOT_STARTED", f"job {job.name} has no processes yet: {job.blocker or job.state.name}")
        serial = await self._holder(job, rank)
        home = int(job.rank_node[rank])
        if serial == NONE and home != NONE:
            serial = await self._history.newest_on(job.uid, home)
        if serial == NONE:
            refuse("conflict", "NOT_STARTED", f"rank {rank} of {job.name} has had no process yet")
        number = await self._history.node_of(job.uid, serial)
        return _Process(host_id(job.uid, serial), self._site.state.fleet.name(home if number is None else number))

    async def _previous(self, job: Job, rank: int) -> _Process:
        """The process that held the rank before its newest one."""
        serial = await self._history.holder_before(job.uid, rank)
        number = NONE if serial == NONE else await self._history.node_of(job.uid, serial)
        if number is None or number == NONE:
            text = f"no earlier process of rank {rank} of {job.name} is known: leave --previous out"
            refuse("not_found", "NO_PREVIOUS_PROCESS", text)
        return _Process(host_id(job.uid, serial), self._site.state.fleet.name(number))


def _after(chunk: job_pb2.ReadLogsResponse) -> _Position:
    """Where a reader is after a chunk."""
    return _Position(chunk.host_id, chunk.end_offset if chunk.HasField("end_offset") else None)
