"""Logs of ranks: an order to a node agent, and the chunks that it pushes handed on to one reader.

A slow reader slows the agent's stream (a full relay is not read from); a reader that leaves ends it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from phalanx.v1 import agent_pb2, job_pb2

from controlplane.core.draft import Refusal
from controlplane.rpc.access import check_speaks_for
from controlplane.rpc.caller import Caller
from controlplane.rpc.errors import RequestRefused, refuse
from controlplane.rpc.guard import Context, read_message

RELAY_CHUNKS = 16
"""Chunks of at most 64 KiB on the way to one reader."""
OPEN_LIMIT_S = 15.0
"""An agent must have opened its stream by then."""
MAX_RELAYS = 256


@dataclass(slots=True)
class Relay:
    """One reader's log, pushed by the agent of `node`. `left` is set when the reader is gone."""

    node: str
    chunks: asyncio.Queue[agent_pb2.PushLogRequest | None] = field(default_factory=lambda: asyncio.Queue(RELAY_CHUNKS))
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)


class LogRelays:
    """Logs that are being read now, by stream id."""

    def __init__(self) -> None:
        self._open: dict[str, Relay] = {}

    def begin(self, node: str) -> tuple[str, Relay]:
        """A relay for a new reader of a log of `node`.

        Raises:
            RequestRefused: too many are open.
        """
        if len(self._open) >= MAX_RELAYS:
            refuse("exhausted", "TOO_MANY_LOGS", f"{MAX_RELAYS} logs are being read: end one, or try again later")
        stream_id = secrets.token_hex(8)
        relay = self._open[stream_id] = Relay(node)
        return stream_id, relay

    def drop(self, stream_id: str) -> None:
        """The reader is gone."""
        relay = self._open.pop(stream_id, None)
        if relay is not None:
            relay.left.set()

    async def take(self, context: Context, caller: Caller, ending: asyncio.Future[Refusal]) -> None:
        """Serve an agent's stream: every chunk goes to its reader, until either is gone or the stream is ended.

        Raises:
            RequestRefused: nobody reads, another node was asked, or the stream is ended.
        """
        first = await read_message(context)
        if first is None:
            return
        relay = self._open.get(first.stream_id)
        if relay is None:
            refuse("not_found", "NO_SUCH_LOG_READER", "nobody reads this log any more")
        check_speaks_for(caller, relay.node)
        relay.opened.set()
        copying = asyncio.create_task(_copy(context, relay, first))
        left = asyncio.create_task(relay.left.wait())
        ends: set[asyncio.Future[Any]] = {copying, left, ending}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        # When the reader has left, the read under way is not cancelled: it returns when this call ends.
        if copying.done():
            copying.result()
        else:
            copying.add_done_callback(lambda task: task.exception())
        if ending.done():
            raise RequestRefused(ending.result())


async def _copy(context: Context, relay: Relay, first: agent_pb2.PushLogRequest) -> None:
    message: agent_pb2.PushLogRequest | None = first
    try:
        while message is not None and not relay.left.is_set():
            await relay.chunks.put(message)
            message = await read_message(context)
    finally:
        if not relay.left.is_set():
            await relay.chunks.put(None)


async def read_relay(relay: Relay) -> AsyncIterator[job_pb2.ReadLogsResponse]:
    """What a reader gets, until the log ends.

    Raises:
        RequestRefused: the agent did not open the log.
    """
    try:
        async with asyncio.timeout(OPEN_LIMIT_S):
            await relay.opened.wait()
    except TimeoutError:
        text = f"the node agent did not send the log within {OPEN_LIMIT_S:g} s: is the node reachable?"
        raise RequestRefused(Refusal("unavailable", "LOG_NOT_OPENED", text)) from None
    while (chunk := await relay.chunks.get()) is not None:
        offset = chunk.end_offset if chunk.HasField("end_offset") else None
        yield job_pb2.ReadLogsResponse(data=chunk.data, host_id=chunk.host_id, end_offset=offset)
