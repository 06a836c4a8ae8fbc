"""Sends the output of rank processes to a reader: the tail first, then what is added."""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path
from typing import BinaryIO

import grpc
import structlog
from grpc import aio
from phalanx.v1 import agent_pb2, agent_pb2_grpc

from agents.node.state import NodeState

STREAM_LIMIT = 8
CHUNK_BYTES = 64 << 10
DEFAULT_TAIL_BYTES = 64 << 10
POLL_S = 0.1
READER_LIMIT_S = 600.0
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

PushLogCall = aio.StreamUnaryCall[agent_pb2.PushLogRequest, agent_pb2.PushLogResponse]

log = structlog.get_logger(__name__)


class LogStreams:
    """At most `STREAM_LIMIT` readers at once; each ends with its stream, its process, or a stalled reader."""

    def __init__(self, state: NodeState, logs_folder: Path) -> None:
        self._state = state
        self._folder = logs_folder
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, stub: agent_pb2_grpc.AgentServiceAsyncStub, order: agent_pb2.OpenLog) -> None:
        """Obey an OpenLog instruction."""
        if len(self._tasks) >= STREAM_LIMIT:
            self._state.counters.add("log_streams_refused")
            log.warning("log.refused", stream_id=order.stream_id, open=len(self._tasks))
            return
        task = asyncio.create_task(self._push(stub, order), name=f"log {order.stream_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End all streams."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def find(self, order: agent_pb2.OpenLog) -> tuple[str, Path | None]:
        """Host id and file that an order means; the path is None when there is no such log."""
        host_id, path = order.host_id, ""
        if not host_id:
            newest = self._state.table.newest_of_rank(order.job_uid, order.rank)
            if newest is None:
                return "", None
            host_id, path = newest.host_id, newest.log_path
        record = self._state.table.get(host_id)
        if record is not None:
            path = record.identity.log_path
        elif host_id in self._state.table.archive:
            path = self._state.table.archive[host_id].log_path
        if not path and _SAFE_NAME.fullmatch(host_id):
            path = os.fspath(self._folder / f"{host_id}.log")
        return host_id, Path(path) if path and os.path.isfile(path) else None

    async def _push(self, stub: agent_pb2_grpc.AgentServiceAsyncStub, order: agent_pb2.OpenLog) -> None:
        host_id, path = self.find(order)
        call = stub.PushLog()
        try:
            begin = _begin(order, path)
            # The first message names the process, also when there is nothing to read yet.
            await call.write(agent_pb2.PushLogRequest(stream_id=order.stream_id, host_id=host_id, end_offset=begin))
            if path is not None:
                with path.open("rb") as file:
                    file.seek(begin)
                    await self._copy(call, file, order, host_id)
            await call.done_writing()
            await call
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.CANCELLED:
                log.info("log.stream_ended", stream_id=order.stream_id, code=error.code().name)
        except asyncio.InvalidStateError:
            # grpc says so when the reader has finished the call before we wrote.
            log.debug("log.reader_left", stream_id=order.stream_id)
        except OSError as error:
            log.warning("log.unreadable", stream_id=order.stream_id, host_id=host_id, reason=error.strerror)
        finally:
            call.cancel()

    async def _copy(self, call: PushLogCall, file: BinaryIO, order: agent_pb2.OpenLog, host_id: str) -> None:
        watchdog = _Watchdog(call)
        try:
            while not call.done():
                # Whether the process had ended is asked before the read: what it wrote last must not be missed.
                record = self._state.table.get(host_id)
                ended = not order.follow or record is None or record.empty
                chunk = file.read(CHUNK_BYTES)
                if chunk:
                    message = agent_pb2.PushLogRequest(stream_id=order.stream_id, data=chunk, host_id=host_id)
                    message.end_offset = file.tell()
                    await call.write(message)
                elif ended:
                    return
                else:
                    await asyncio.sleep(POLL_S)
                watchdog.feed()
        finally:
            watchdog.stop()


def _begin(order: agent_pb2.OpenLog, path: Path | None) -> int:
    """The byte to begin at. A log that is shorter than a reader remembers is read from where it ends."""
    size = path.stat().st_size if path is not None else 0
    if order.HasField("offset"):
        return min(order.offset, size)
    return max(0, size - (order.tail_bytes or DEFAULT_TAIL_BYTES))


class _Watchdog:
    """Cancels a call when a write has waited for the reader for too long; writes have no time limit."""

    def __init__(self, call: PushLogCall) -> None:
        self._call = call
        self._fed_at = time.monotonic()
        self._timer = asyncio.get_running_loop().call_later(READER_LIMIT_S, self._look)

    def feed(self) -> None:
        """The reader is there."""
        self._fed_at = time.monotonic()

    def stop(self) -> None:
        """No longer needed."""
        self._timer.cancel()

    def _look(self) -> None:
        left_s = self._fed_at + READER_LIMIT_S - time.monotonic()
        if left_s <= 0:
            self._call.cancel()
            return
        self._timer = asyncio.get_running_loop().call_later(left_s, self._look)
