"""The rank host's connection to its node agent: non-blocking, one poll loop, no threads, light to import."""

from __future__ import annotations

import random
import select
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from enum import Enum

from google.protobuf.message import DecodeError
from phalanx.v1 import local_pb2

MAX_FRAME_BYTES = 1 << 20
"""Of the contract: proto/phalanx/v1/local.proto."""

FIRST_RETRY_S = 0.05
LAST_RETRY_S = 1.0
EXIT_RESEND_S = 2.0
_LENGTH = struct.Struct(">I")


class LinkState(Enum):
    """How far the conversation with the node agent has come."""

    AWAY = "away"  # not connected
    REGISTERING = "registering"
    REGISTERED = "registered"
    ACKNOWLEDGED = "acknowledged"  # the agent has the exit


class HostLink:
    """Registers on every new connection and, once there is an exit, sends it until it is acknowledged.

    `register` makes the first frame, with the truth of that moment; it raises OSError while the node's key cannot be
    read. All times are of the caller's monotonic clock, in seconds.
    """

    def __init__(self, path: str, register: Callable[[], local_pb2.HostRegister], note: Callable[[str], None]) -> None:
        self._path = path
        self._register = register
        self._note = note
        self._poll = select.poll()
        self._connection: socket.socket | None = None
        self._buffer = bytearray()
        self._delay_s = FIRST_RETRY_S
        self._next_try = 0.0
        self._exit: Callable[[], local_pb2.HostExit] | None = None
        self._exit_due = 0.0
        self.state = LinkState.AWAY
        self.refusal = ""

    def watch(self, descriptor: int) -> None:
        """Let `wait` also return when `descriptor` becomes readable."""
        self._poll.register(descriptor, select.POLLIN)

    def send_exit(self, make: Callable[[], local_pb2.HostExit]) -> None:
        """From now on send what `make` returns, again after EXIT_RESEND_S or a reconnect, until it is acknowledged."""
        self._exit = make
        self._exit_due = 0.0
        if self.state is LinkState.ACKNOWLEDGED:
            self.state = LinkState.REGISTERED

    def wait(self, now: float, limit: float) -> None:
        """Sleep until there is something to do, at most until `limit`."""
        until = limit
        if self.state is LinkState.AWAY:
            until = min(until, self._next_try)
        elif self.state is LinkState.REGISTERED and self._exit is not None:
            until = min(until, self._exit_due)
        self._poll.poll(max(0.0, (until - now) * 1000))

    def step(self, now: float) -> None:
        """Connect, read, and send whatever is due; never blocks."""
        if self._connection is None:
            if now < self._next_try:
                return
            self._connect(now)
        if self._connection is not None:
            self._read(now)
        if self.state is LinkState.REGISTERED and self._exit is not None and now >= self._exit_due:
            self._exit_due = now + EXIT_RESEND_S
            self._send(local_pb2.LocalRequest(host_exit=self._exit()), now)

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._poll.unregister(self._connection)
            self._connection.close()
            self._connection = None
        self._buffer.clear()
        self.state = LinkState.AWAY

    def _connect(self, now: float) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(self._path)  # at once for a Unix socket; EAGAIN when the agent's queue is full
            first = local_pb2.LocalRequest(host_register=self._register())
        except OSError:
            connection.close()
            self._back_off(now)
            return
        self._connection = connection
        self._poll.register(connection, select.POLLIN)
        self.state = LinkState.REGISTERING
        self._send(first, now)

    def _lost(self, now: float) -> None:
        if self.state in (LinkState.REGISTERED, LinkState.ACKNOWLEDGED):
            self._delay_s = FIRST_RETRY_S
        self.close()
        self._back_off(now)

    def _back_off(self, now: float) -> None:
        # Jitter: all hosts of a node lose a dying agent in the same moment.
        self._next_try = now + self._delay_s * random.uniform(0.5, 1.0)
        self._delay_s = min(self._delay_s * 2, LAST_RETRY_S)

    def _send(self, request: local_pb2.LocalRequest, now: float) -> None:
        assert self._connection is not None  # every caller has just seen one
        body = request.SerializeToString()
        frame = _LENGTH.pack(len(body)) + body
        try:
            sent = self._connection.send(frame)
        except OSError:
            sent = -1
        if sent != len(frame):  # a few small frames always fit, unless the agent has stopped reading: start over
            self._lost(now)

    def _read(self, now: float) -> None:
        assert self._connection is not None  # every caller has just seen one
        with suppress(BlockingIOError):
            try:
                data = self._connection.recv(1 << 16)
            except ConnectionError:
                data = b""
            if not data:
                self._lost(now)
                return
            self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                self._lost(now)
                return
            if len(self._buffer) < _LENGTH.size + length:
                return
            body = bytes(self._buffer[_LENGTH.size : _LENGTH.size + length])
            del self._buffer[: _LENGTH.size + length]
            try:
                self._obey(local_pb2.LocalInstruction.FromString(body))
            except DecodeError:
                self._lost(now)
                return

    def _obey(self, instruction: local_pb2.LocalInstruction) -> None:
        match instruction.WhichOneof("body"):
            case "registered":
                self.state = LinkState.REGISTERED
                self.refusal = ""
                self._exit_due = 0.0
            case "host_exit_ack":
                if self._exit is not None:
                    self.state = LinkState.ACKNOWLEDGED
            case "refused":
                if instruction.refused.reason != self.refusal:
                    self._note(f"the node agent refused this host: {instruction.refused.reason}")
                self.refusal = instruction.refused.reason
            case other:
                self._note(f"the node agent sent {other}, which a rank host does not understand")
