"""The agent's Unix socket: framing, peer credentials, limits. What is said on it is the desk's business."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
from pathlib import Path

import structlog
from phalanx.v1 import local_pb2

from agents.node.connections import Role
from agents.node.desk import LocalDesk
from agents.node.durable import AlreadyRunningError
from agents.node.frames import FrameError, encode_frame, read_request
from agents.node.observability import Counters

FIRST_FRAME_LIMIT_S = 5.0
CONNECTION_LIMIT = 1024
WRITE_BUFFER_LIMIT_BYTES = 8 << 20
SOCKET_PATH_LIMIT_BYTES = 107
_CREDENTIALS = struct.Struct("3i")

log = structlog.get_logger(__name__)


class LocalConnection:
    """One accepted connection."""

    def __init__(self, writer: asyncio.StreamWriter, peer_pid: int, counters: Counters) -> None:
        self.host_id = ""
        self.role: Role | None = None
        self.peer_pid = peer_pid
        self._writer = writer
        self._counters = counters
        self._closed = asyncio.Event()

    @property
    def closed(self) -> asyncio.Event:
        """Set when everything that the peer wrote was handled and the connection is gone."""
        return self._closed

    def send(self, instruction: local_pb2.LocalInstruction) -> None:
        """Write without waiting; a peer that does not read is cut off."""
        if self._writer.is_closing():
            return
        self._writer.write(encode_frame(instruction))
        if self._writer.transport.get_write_buffer_size() > WRITE_BUFFER_LIMIT_BYTES:
            self._counters.add("local_slow_readers")
            self._writer.transport.abort()

    def close(self) -> None:
        """End the connection after what was written has left."""
        self._writer.close()


class LocalServer:
    """Accepts rank hosts and rank processes of the same user."""

    def __init__(self, path: Path, desk: LocalDesk, counters: Counters) -> None:
        self._path = path
        self._desk = desk
        self._counters = counters
        self._open: set[LocalConnection] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises AlreadyRunningError when another process listens on the path."""
        listener = bind_socket(self._path)
        self._server = await asyncio.start_unix_server(self._accepted, sock=listener)

    async def close(self) -> None:
        """Stop listening and end the connections; the peers come back to the next agent."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._open):
            connection.close()
        self._path.unlink(missing_ok=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = LocalConnection(writer, 0, self._counters)
        self._open.add(connection)
        try:
            self._check_peer(connection, writer)
            await self._serve(connection, reader)
        except FrameError as error:
            self._counters.add(f"local_closed.{error.kind}")
            if self._counters.first("socket", error.kind):
                log.warning("local.closed", kind=error.kind, reason=str(error), host_id=connection.host_id)
        except Exception:  # process edge: what breaks on one connection must not reach the others
            self._counters.add("local_closed.broke")
            log.exception("local.broke", host_id=connection.host_id)
        finally:
            self._open.discard(connection)
            connection.close()
            self._desk.closed(connection)
            connection.closed.set()

    def _check_peer(self, connection: LocalConnection, writer: asyncio.StreamWriter) -> None:
        peer: socket.socket = writer.get_extra_info("socket")
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        connection.peer_pid, uid, _ = _CREDENTIALS.unpack(credentials)
        if uid != os.geteuid():
            raise FrameError("foreign_user", f"process {connection.peer_pid} belongs to user {uid}")
        if len(self._open) > CONNECTION_LIMIT:
            raise FrameError("too_many", f"{CONNECTION_LIMIT} connections are open")

    async def _serve(self, connection: LocalConnection, reader: asyncio.StreamReader) -> None:
        try:
            first = await asyncio.wait_for(read_request(reader), FIRST_FRAME_LIMIT_S)
        except TimeoutError:
            raise FrameError("mute", f"process {connection.peer_pid} did not register") from None
        if first is None or not self._desk.register(connection, first):
            return
        while True:
            request = await read_request(reader)
            if request is None:
                return
            self._desk.handle(connection, request)


def bind_socket(path: Path) -> socket.socket:
    """A listening socket of mode 0600. Replaces the file of a dead predecessor, never that of a living one."""
    if len(os.fsencode(path)) > SOCKET_PATH_LIMIT_BYTES:
        raise ValueError(f"the socket path {path} is longer than {SOCKET_PATH_LIMIT_BYTES} bytes; use a shorter folder")
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    former_mask = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(former_mask)
    listener.setblocking(False)
    return listener


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AlreadyRunningError(f"{path} exists and is not a socket; give another --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
    raise AlreadyRunningError(f"another process listens on {path}; stop it first, or give another --socket")
