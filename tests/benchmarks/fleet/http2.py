"""One gRPC stream over one connection, as cheaply as Python can: what a load generator needs of HTTP/2 (RFC 9113) and no more.

Thousands of grpc channels in one process cost more processor time than the server under test; then the generator is what is
measured. This speaks the same bytes: preface, SETTINGS, one HEADERS, DATA with gRPC's five-byte prefix, flow control both
ways, answers to PING and SETTINGS.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
INITIAL_WINDOW = 65_535
OUR_WINDOW = 4 << 20
"""What the server may send before we have said that we took it: a whole rank table fits."""
_SETTING_INITIAL_WINDOW = 4
_FRAME = struct.Struct(">BHBBI")  # 24 bits of length as a byte and a short, type, flags, stream
_MESSAGE = struct.Struct(">BI")
_STREAM = 1


def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    """One frame."""
    size = len(body)
    return _FRAME.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + body


def _text(value: str) -> bytes:
    raw = value.encode()
    if len(raw) > 126:
        raise ValueError(f"{value!r} is too long for a header of one length byte")
    return bytes([len(raw)]) + raw


def request_headers(path: str, authority: str, *, tls: bool) -> bytes:
    """HPACK of a gRPC request, without dynamic table and Huffman codes (RFC 7541)."""
    return (
        b"\x83"  # :method POST
        + (b"\x87" if tls else b"\x86")  # :scheme
        + b"\x04" + _text(path)
        + b"\x01" + _text(authority)
        + b"\x0f\x10" + _text("application/grpc")
        + b"\x00" + _text("te") + _text("trailers")
    )  # fmt: skip


class GrpcStream(asyncio.Protocol):
    """One bidirectional call. `on_message` gets each answer's bytes; `on_end` gets why the stream ended, once.

    `send` is fire and forget: what flow control does not let through waits (bounded by the caller's own rate).
    """

    def __init__(
        self,
        path: str,
        authority: str,
        on_message: Callable[[bytes], None],
        on_end: Callable[[str], None],
        *,
        tls: bool,
    ) -> None:
        self._headers = request_headers(path, authority, tls=tls)
        self._on_message = on_message
        self._on_end = on_end
        self._buffer = bytearray()
        self._messages = bytearray()
        self._window = INITIAL_WINDOW
        self._connection_window = INITIAL_WINDOW
        self._server_initial = INITIAL_WINDOW
        self._taken = 0
        self._waiting: deque[bytes] = deque()
        self._over = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        settings = struct.pack(">HI", _SETTING_INITIAL_WINDOW, OUR_WINDOW)
        transport.write(
            PREFACE
            + frame(SETTINGS, 0, 0, settings)
            + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", OUR_WINDOW - INITIAL_WINDOW))
            + frame(HEADERS, END_HEADERS, _STREAM, self._headers)
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._end(f"connection lost: {exc}" if exc else "connection closed")

    def send(self, message: bytes) -> None:
        """Send one message."""
        self._waiting.append(_MESSAGE.pack(0, len(message)) + message)
        self._flush()

    def reset(self) -> None:
        """Break the connection off without a word, as the kernel does for a process that died."""
        if self.transport is not None:
            self.transport.abort()

    @property
    def backlog(self) -> int:
        """Messages that flow control holds back."""
        return len(self._waiting)

    def _flush(self) -> None:
        if self.transport is None or self._over:
            return
        while self._waiting:
            room = min(self._window, self._connection_window, 16_384)
            if room <= 0:
                return
            whole = self._waiting[0]
            part = whole[:room]
            if len(part) == len(whole):
                self._waiting.popleft()
            else:
                self._waiting[0] = whole[room:]
            self._window -= len(part)
            self._connection_window -= len(part)
            self.transport.write(frame(DATA, 0, _STREAM, part))

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 9:
            high, low, kind, flags, stream = _FRAME.unpack_from(buffer)
            size = (high << 16) + low
            if len(buffer) < 9 + size:
                return
            body = bytes(buffer[9 : 9 + size])
            del buffer[: 9 + size]
            self._frame(kind, flags, stream, body)

    def _frame(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        assert self.transport is not None
        if kind == DATA:
            self._data(body)
        elif kind == WINDOW_UPDATE:
            (more,) = struct.unpack(">I", body)
            if stream:
                self._window += more
            else:
                self._connection_window += more
            self._flush()
        elif kind == SETTINGS and not flags & ACK:
            self._settings(body)
        elif kind == PING and not flags & ACK:
            self.transport.write(frame(PING, ACK, 0, body))
        elif kind == HEADERS and flags & END_STREAM:
            self._end(f"the server ended the stream: {body!r}")
        elif kind == RST_STREAM:
            self._end("the server reset the stream")
        elif kind == GOAWAY:
            self._end(f"the server goes away: {body[8:]!r}")

    def _data(self, body: bytes) -> None:
        assert self.transport is not None
        messages = self._messages
        messages += body
        self._taken += len(body)
        if self._taken > OUR_WINDOW // 2:
            grown = struct.pack(">I", self._taken)
            self.transport.write(frame(WINDOW_UPDATE, 0, 0, grown) + frame(WINDOW_UPDATE, 0, _STREAM, grown))
            self._taken = 0
        while len(messages) >= 5:
            _, size = _MESSAGE.unpack_from(messages)
            if len(messages) < 5 + size:
                return
            whole = bytes(messages[5 : 5 + size])
            del messages[: 5 + size]
            self._on_message(whole)

    def _settings(self, body: bytes) -> None:
        assert self.transport is not None
        for at in range(0, len(body), 6):
            key, value = struct.unpack_from(">HI", body, at)
            if key == _SETTING_INITIAL_WINDOW:
                self._window += value - self._server_initial
                self._server_initial = value
        self.transport.write(frame(SETTINGS, ACK, 0, b""))
        self._flush()

    def _end(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self._on_end(reason)
