"""The connection to the node agent: a background thread that reconnects for ever and never blocks a step."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

from google.protobuf.message import DecodeError
from phalanx.v1 import local_pb2

from agents.rank.assignment import Assignment, assignment_from
from agents.rank.outbox import RESEND_S, Outbox
from agents.rank.settings import RankSettings

MAX_FRAME_BYTES = 1 << 20
"""Of the contract: docs/design/0003-processes.md, proto/phalanx/v1/local.proto."""

FIRST_RETRY_S = 0.02
LAST_RETRY_S = 1.0
SEND_TIMEOUT_S = 5.0

FINAL_KEY = ("final",)

PR_SET_PTRACER = 0x59616D61
"""Of linux/prctl.h: who may look at this process beside its parents."""
MAX_PATIENCE_MS = 3_600_000
"""Nobody waits longer for a save that was asked for."""


def note(text: str) -> None:
    """One line into the rank's log, which is this process's stderr."""
    sys.stderr.write(f"phalanx: {text}\n")
    sys.stderr.flush()


class _Lost(Exception):
    """The connection is of no more use; reconnect."""


class AgentLink:
    """Speaks `phalanx.v1` local frames with the node agent and hands assignments to `on_assignment`.

    `on_assignment` runs on the link's thread and must not block; it returns False for an assignment that is not newer.
    `on_save_now` is given a generation that is to save now and the seconds for which somebody waits for it, on the same thread.
    """

    def __init__(
        self,
        settings: RankSettings,
        outbox: Outbox,
        on_assignment: Callable[[Assignment], bool],
        on_save_now: Callable[[int, float], None] = lambda generation, patience_s: None,
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._on_assignment = on_assignment
        self._on_save_now = on_save_now
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._thread = threading.Thread(target=self._run, name="phalanx-link", daemon=True)
        self._refusal = ""

    def start(self) -> None:
        """Start the thread. It is a daemon: it ends with the process."""
        self._thread.start()

    def wake(self) -> None:
        """Something in the outbox is due."""
        with suppress(BlockingIOError):  # a full pipe already means "awake"
            os.write(self._wake_write, b"x")

    def _run(self) -> None:
        delay = FIRST_RETRY_S
        while True:
            try:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                    connection.settimeout(SEND_TIMEOUT_S)
                    connection.connect(self._settings.socket_path)
                    _let_look(connection)
                    if self._talk(connection):
                        delay = FIRST_RETRY_S
            except (OSError, _Lost):
                pass  # the agent is away, which is an ordinary state: nothing to say
            except Exception:  # noqa: BLE001  the edge of a thread that has to outlive any bug: a deaf rank is worse
                note(f"link to the node agent failed, reconnecting:\n{traceback.format_exc()}")
            time.sleep(delay)
            delay = min(delay * 2, LAST_RETRY_S)

    def _talk(self, connection: socket.socket) -> bool:
        """Serve one connection until it ends; True when it got as far as being registered."""
        register = local_pb2.RankRegister(
            host_id=self._settings.host_id,
            pid=os.getpid(),
            proof=self._settings.proof(),
            status=self._outbox.reconnected(self._settings.host_id, time.monotonic()),
            own_rows=True,
        )
        _write(connection, local_pb2.LocalRequest(rank_register=register))
        registered = False
        buffer = bytearray()
        while True:
            if registered:
                for request in self._outbox.due(self._settings.host_id, time.monotonic()):
                    _write(connection, request)
            idle_s = self._outbox.wait_s(time.monotonic()) if registered else RESEND_S
            ready, _, _ = select.select([connection.fileno(), self._wake_read], [], [], idle_s)
            if self._wake_read in ready:
                with suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            if connection.fileno() not in ready:
                continue
            data = connection.recv(1 << 16)
            if not data:
                return registered
            buffer += data
            for frame in _frames(buffer):
                if frame.HasField("refused"):
                    self._refused(frame.refused.reason)
                    if not registered:
                        return False
                elif frame.HasField("registered"):
                    registered = True
                else:
                    self._obey(frame)

    def _refused(self, reason: str) -> None:
        if reason != self._refusal:
            note(f"the node agent refused a message: {reason}")
        self._refusal = reason

    def _obey(self, frame: local_pb2.LocalInstruction) -> None:
        match frame.WhichOneof("body"):
            case "assignment":
                self._assign(frame.assignment)
            case "shard_ack":
                self._outbox.acknowledge(("shard", frame.shard_ack.generation, frame.shard_ack.step))
            case "final_marker_ack":
                self._outbox.acknowledge(FINAL_KEY)
            case "save_now":
                self._on_save_now(frame.save_now.generation, min(frame.save_now.deadline_ms, MAX_PATIENCE_MS) / 1_000)
            case other:
                note(f"the node agent sent {other}, which a rank process does not understand")

    def _assign(self, message: local_pb2.Assignment) -> None:
        try:
            assignment = assignment_from(message)
        except ValueError as error:
            note(f"assignment refused: {error}")
            return
        if not self._on_assignment(assignment):
            self._outbox.retoken(assignment.generation, assignment.token)


def _let_look(connection: socket.socket) -> None:
    """Where Yama lets only parents look at a process (`ptrace_scope` 1), the node agent may, with its children: it reads the stack
    of a rank that hangs. Elsewhere the call does nothing."""
    pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if pid > 0:  # 0: the agent lives in another space of process ids
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(pid), 0, 0, 0)


def _write(connection: socket.socket, request: local_pb2.LocalRequest) -> None:
    body = request.SerializeToString()
    connection.sendall(struct.pack(">I", len(body)) + body)


def _frames(buffer: bytearray) -> list[local_pb2.LocalInstruction]:
    """Cut the complete frames off the front of `buffer`. Raises _Lost on a frame that is too long or not readable."""
    frames = []
    while len(buffer) >= 4:
        (length,) = struct.unpack_from(">I", buffer)
        if length > MAX_FRAME_BYTES:
            raise _Lost
        if len(buffer) < 4 + length:
            break
        try:
            frames.append(local_pb2.LocalInstruction.FromString(bytes(buffer[4 : 4 + length])))
        except DecodeError as error:
            raise _Lost from error
        del buffer[: 4 + length]
    return frames
