"""Frames of the Unix socket: 4-byte big-endian length, then one protobuf message of at most 1 MiB."""

from __future__ import annotations

import asyncio
import struct

from google.protobuf.message import DecodeError
from phalanx.v1 import local_pb2

MAX_FRAME_BYTES = 1 << 20
_LENGTH = struct.Struct(">I")


class FrameError(Exception):
    """The peer broke the framing; its connection is closed. `kind` is a constant name for counting."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def encode_frame(message: local_pb2.LocalRequest | local_pb2.LocalInstruction) -> bytes:
    """One frame; FrameError("oversized") when the message does not fit."""
    body = message.SerializeToString()
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError("oversized", f"a message of {len(body)} bytes does not fit a frame of {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


async def read_request(reader: asyncio.StreamReader) -> local_pb2.LocalRequest | None:
    """The next request, or None when the peer closed between two frames."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_FRAME_BYTES:
            raise FrameError("oversized", f"a frame of {length} bytes was announced, the limit is {MAX_FRAME_BYTES}")
        body = await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        if not error.partial and error.expected == _LENGTH.size:
            return None
        raise FrameError("truncated", "the peer closed in the middle of a frame") from None
    except ConnectionError:
        return None
    try:
        request = local_pb2.LocalRequest.FromString(body)
    except DecodeError:
        raise FrameError("malformed", "a frame is not a LocalRequest") from None
    if request.WhichOneof("body") is None:
        raise FrameError("malformed", "a frame holds no known request")
    return request
