"""The control socket of the supervisor: one JSON object per line, one answer per request."""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cli.errors import CliError, Exit

MAX_LINE = 64 * 1024
MAX_CONNECTIONS = 32
CALL_TIMEOUT_S = 30.0
"""Destroying a node waits until its last process is gone."""

Answer = dict[str, Any]
Handler = Callable[[dict[str, Any]], Answer]


def socket_path(run: Path) -> Path:
    """Where the supervisor of a run folder listens."""
    return run / "supervisor.sock"


class ControlServer:
    """Serves requests from one selector loop. Connections of other users are refused."""

    def __init__(self, path: Path, selector: selectors.BaseSelector, handle: Handler) -> None:
        self._selector = selector
        self._handle = handle
        self._buffers: dict[socket.socket, bytes] = {}
        fresh = path.with_suffix(".new")  # appears under its name when it can be called, not before
        fresh.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(fresh))
        fresh.chmod(0o600)
        self._listener.listen(MAX_CONNECTIONS)
        fresh.rename(path)
        self._listener.setblocking(False)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", packed)
        if uid not in (os.getuid(), 0) or len(self._buffers) >= MAX_CONNECTIONS:
            connection.close()
            return
        connection.settimeout(1.0)  # answers are small; a reader that does not read is dropped
        self._buffers[connection] = b""
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._read(connection))

    def _read(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(MAX_LINE)
            buffer = self._buffers[connection] + data
            *lines, self._buffers[connection] = buffer.split(b"\n")
            for line in lines:
                connection.sendall(json.dumps(self._answer(line)).encode() + b"\n")
        except OSError:
            data = b""
        if not data or len(self._buffers[connection]) > MAX_LINE:
            self._drop(connection)

    def _answer(self, line: bytes) -> Answer:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):  # no JSON, or nested without end
            request = None
        if not isinstance(request, dict):
            return {"ok": False, "error": "a request is one JSON object on one line"}
        return self._handle(request)

    def _drop(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._buffers[connection]
        connection.close()

    def close(self) -> None:
        """Stops listening."""
        for connection in list(self._buffers):
            self._drop(connection)
        self._selector.unregister(self._listener)
        self._listener.close()


def call(run: Path, request: dict[str, Any], timeout_s: float = CALL_TIMEOUT_S) -> Answer:
    """One request to the supervisor of a run folder. A refusal is a `CliError`."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(socket_path(run)))
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline()
        answer: Answer = json.loads(line)
    except (OSError, ValueError) as error:
        why = str(error) or type(error).__name__
        raise CliError("the supervisor does not answer", why=why, fix="`phalanx down`, then `phalanx up`") from error
    if not answer.get("ok"):
        raise CliError(str(answer.get("error", "the supervisor refused")), code=Exit(answer.get("code", 1)))
    return answer
