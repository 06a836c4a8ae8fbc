"""The loop takes every wake-up by grpc that waits, so that grpc's polling thread is never held up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial

from grpc import aio

from controlplane.rpc.wakeups import EdgeLoop

BYTES = 200
"""Fewer than what makes the writer of a Unix socket wait."""


class Queue:
    """What grpc's completion queue does when it is woken: it takes one byte."""

    def __init__(self, wake: socket.socket) -> None:
        self.wake = wake
        self.calls: list[asyncio.AbstractEventLoop] = []

    def _handle_events(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self.wake.recv(1) == b"1"
        self.calls.append(loop)

    def other(self) -> None:
        assert self.wake.recv(1) == b"1"


def rounds(loop: asyncio.AbstractEventLoop, count: int) -> None:
    async def pass_by() -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    loop.run_until_complete(pass_by())


def left_after(how: Callable[[Queue, asyncio.AbstractEventLoop], Callable[[], None]], written: int) -> tuple[int, int]:
    """(bytes that still wait after a few rounds, calls of the queue)."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    loop, queue = EdgeLoop(), Queue(reader)
    with reader, writer:
        writer.send(b"1" * written)
        loop.add_reader(reader, how(queue, loop))
        rounds(loop, 5)
        loop.remove_reader(reader)
        loop.close()
        try:
            left = len(reader.recv(1_000))
        except BlockingIOError:
            left = 0
    return left, len(queue.calls)


def test_all_wakeups_of_grpc_are_one() -> None:
    def grpcs(queue: Queue, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
        return partial(queue._handle_events, loop)

    assert left_after(grpcs, BYTES) == (0, 1)
    assert left_after(grpcs, 1) == (0, 1)


def test_other_readers_are_left_alone() -> None:
    left, _ = left_after(lambda queue, _: queue.other, BYTES)
    assert 0 < left < BYTES


def test_grpc_still_wakes_the_loop_as_it_did() -> None:
    """When this fails, a new grpcio wakes loops in another way: measure whether the workaround is needed any more."""
    readers: list[str] = []

    class Watched(EdgeLoop):
        def _add_reader(self, fd: object, callback: Callable[..., object], *args: object) -> object:
            readers.append(getattr(getattr(callback, "func", callback), "__name__", ""))
            return super()._add_reader(fd, callback, *args)  # type: ignore[misc]  # asyncio's own way to its selector

    async def serve() -> None:
        server = aio.server()
        server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await server.stop(None)

    with asyncio.Runner(loop_factory=Watched) as runner:
        runner.run(serve())
    assert readers.count("_all_at_once") == 1
