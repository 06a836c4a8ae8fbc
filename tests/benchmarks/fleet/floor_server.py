"""The least that Python does for the generator's frames: the same HTTP/2 and TLS, no grpc, no decisions, no journal.

`python -m tests.benchmarks.fleet.floor_server FOLDER ADDRESS` welcomes every hello, parses every beat, and drops it. FOLDER holds
`ca.pem` and `server.pem`, or nothing of that: then it speaks without TLS.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
import struct
import sys
from pathlib import Path

from phalanx.v1 import agent_pb2

from tests.benchmarks.fleet.http2 import ACK, DATA, INITIAL_WINDOW, PING, PREFACE, SETTINGS, WINDOW_UPDATE, frame

STREAM = 1
_HEAD = struct.Struct(">BHBBI")
_PREFIX = struct.Struct(">BI")
WELCOME = agent_pb2.AgentInstruction(welcome=agent_pb2.Welcome(epoch=1, revision=1)).SerializeToString()
BACKLOG = 1_024


class Session(asyncio.Protocol):
    """One agent."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._messages = bytearray()
        self._begun = self._welcomed = False
        self._taken = 0
        self.beats = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(frame(SETTINGS, 0, 0, b""))

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        buffer = self._buffer
        buffer += data
        if not self._begun:
            if len(buffer) < len(PREFACE):
                return
            del buffer[: len(PREFACE)]
            self._begun = True
        at = 0
        while len(buffer) - at >= 9:
            high, low, kind, flags, _ = _HEAD.unpack_from(buffer, at)
            end = at + 9 + (high << 16) + low
            if len(buffer) < end:
                break
            if kind == DATA:
                self._data(buffer[at + 9 : end])
            elif kind in {SETTINGS, PING} and not flags & ACK:
                self._transport.write(frame(kind, ACK, 0, bytes(buffer[at + 9 : end]) if kind == PING else b""))
            at = end
        del buffer[:at]

    def _data(self, body: bytearray) -> None:
        messages = self._messages
        messages += body
        self._taken += len(body)
        if self._taken > INITIAL_WINDOW // 2:
            grown = struct.pack(">I", self._taken)
            self._transport.write(frame(WINDOW_UPDATE, 0, 0, grown) + frame(WINDOW_UPDATE, 0, STREAM, grown))
            self._taken = 0
        while len(messages) >= 5:
            _, size = _PREFIX.unpack_from(messages)
            if len(messages) < 5 + size:
                return
            told = agent_pb2.AgentMessage.FromString(bytes(messages[5 : 5 + size]))
            del messages[: 5 + size]
            if not self._welcomed:
                self._welcomed = True
                self._transport.write(frame(DATA, 0, STREAM, _PREFIX.pack(0, len(WELCOME)) + WELCOME))
            elif told.WhichOneof("body") == "beat":
                self.beats += 1


def credentials(folder: Path) -> ssl.SSLContext | None:
    """TLS in both directions, as the controller has it."""
    if not (folder / "server.pem").exists():
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(folder / "server.pem")
    context.set_alpn_protocols(["h2"])
    return context


async def serve(folder: Path, address: str) -> None:
    """Until the process is ended."""
    host, port = address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Session, host, int(port), ssl=credentials(folder), backlog=BACKLOG)
    gc.disable()  # a floor
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2]))
