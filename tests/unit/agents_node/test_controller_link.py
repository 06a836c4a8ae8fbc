"""A stream of the agent, silenced in the middle of a write, as happens when a session is handed over under load."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from grpc import aio

from agents.node import link
from agents.node.boot import Boot
from agents.node.dial import Dialer
from agents.node.link import ControllerLink, StaleControllerError, _Stream

LIMIT_S = 30.0
MUCH = b"x" * (8 << 20)
"""More than the flow control of HTTP/2 lets out to a server that does not read."""


class Talker(ControllerLink):
    """Has the same large message to send, again and again."""

    def __init__(self) -> None:
        super().__init__(Dialer("127.0.0.1:1", None), asyncio.Event(), Boot())
        self.drawn = 0

    def next_message(self) -> bytes:
        self.drawn += 1
        return MUCH

    def open(self, channel: aio.Channel) -> Any:
        raise NotImplementedError

    def hello(self) -> Any:
        raise NotImplementedError

    def obey(self, welcome: Any) -> None:
        raise StaleControllerError

    def handle(self, instruction: Any) -> None:
        raise NotImplementedError

    async def detach(self) -> None:
        raise NotImplementedError

    def ended(self, reason: str, lasted_s: float, retry_in_s: float) -> None:
        raise NotImplementedError


class SlowReader(grpc.GenericRpcHandler):
    """A server that takes its time: it reads nothing until it is let."""

    def __init__(self) -> None:
        self.may_read = asyncio.Event()
        self.begun = asyncio.Event()
        self.read: list[int] = []
        self.end = "none"

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.stream_stream_rpc_method_handler(self._serve)

    async def _serve(self, _: Any, context: aio.ServicerContext) -> None:
        self.begun.set()
        try:
            await self.may_read.wait()
            while (message := await context.read()) is not aio.EOF:
                self.read.append(len(message))
            self.end = "half-closed"
        except (asyncio.CancelledError, aio.AbortError):
            self.end = "cancelled"
            raise


async def stream_in_a_write(scene: Callable[[SlowReader, Talker, _Stream], Awaitable[None]]) -> SlowReader:
    reader = SlowReader()
    server = aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((reader,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            talker, stream = Talker(), _Stream()
            stream.call = channel.stream_stream("/test.Service/Session")()
            stream.helpers = [asyncio.create_task(talker._write(stream))]
            await asyncio.wait_for(reader.begun.wait(), LIMIT_S)
            while stream.written.is_set():
                await asyncio.sleep(0.01)
            await scene(reader, talker, stream)
    finally:
        await server.stop(0)
    return reader


def test_a_write_under_way_is_let_through_and_nothing_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CLOSE_LIMIT_S", LIMIT_S)

    async def scene(reader: SlowReader, talker: Talker, stream: _Stream) -> None:
        silenced = asyncio.create_task(stream.silence())
        await asyncio.sleep(0)
        assert not silenced.done()
        drawn = talker.drawn
        reader.may_read.set()
        await asyncio.wait_for(silenced, LIMIT_S)
        assert talker.drawn == drawn
        assert not stream.call.done(), "the call is alive, to be ended by the controller"
        await stream.half_close()
        assert await asyncio.wait_for(stream.call.code(), LIMIT_S) is grpc.StatusCode.OK
        assert (reader.read, reader.end) == ([len(MUCH)] * drawn, "half-closed")

    asyncio.run(asyncio.wait_for(stream_in_a_write(scene), 3 * LIMIT_S))


def test_a_controller_that_does_not_read_delays_the_end_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CLOSE_LIMIT_S", 0.05)

    async def scene(reader: SlowReader, talker: Talker, stream: _Stream) -> None:
        await asyncio.wait_for(stream.silence(), LIMIT_S)
        assert stream.call.cancelled(), "grpc ends a call whose write is cancelled: nothing better is left"
        assert all(helper.done() for helper in stream.helpers)

    asyncio.run(asyncio.wait_for(stream_in_a_write(scene), 3 * LIMIT_S))
