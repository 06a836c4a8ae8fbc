"""How many fields a message has, before it is parsed.

Two bytes on the wire are an empty row, and a parsed one takes a hundred: eight MiB of them would be half a GiB and seconds in which
nobody else is heard. Whoever counts first stops at the limit.

This text stands twice, in `agents/relay` and in `controlplane/rpc`, and a test keeps both the same: relay and controller share
the protocol and no code. Agents may import no part of the control plane nor the other way round, and what both may import
(`phalanx.v1`) is generated.
"""

from __future__ import annotations

from functools import cache

from google.protobuf.descriptor import Descriptor

SMALL_BYTES = 64 << 10
"""What fits into this is parsed as it is."""
MOST_FIELDS = 65_536
"""A node with a thousand processes and their ends has a quarter of it."""


@cache
def _inner(descriptor: Descriptor) -> dict[int, Descriptor]:
    """The messages in a message, by number of their field."""
    return {field.number: field.message_type for field in descriptor.fields if field.message_type is not None}


def too_many_fields(raw: bytes, descriptor: Descriptor, most: int = MOST_FIELDS) -> bool:
    """Whether a message has more than `most` fields, those of its inner messages included.

    What is no message ends the count: the parser will say so.
    """
    if len(raw) <= SMALL_BYTES:
        return False
    left = most
    waiting = [(0, len(raw), descriptor)]
    while waiting:
        at, end, kind = waiting.pop()
        inner = _inner(kind)
        while at < end:
            left -= 1
            if left < 0:
                return True
            tag, at = _varint(raw, at, end)
            match tag & 7:
                case 0:
                    _, at = _varint(raw, at, end)
                case 1:
                    at += 8
                case 5:
                    at += 4
                case 2:
                    size, at = _varint(raw, at, end)
                    found = inner.get(tag >> 3)
                    if found is not None:
                        waiting.append((at, min(at + size, end), found))
                    at += size
                case _:
                    return False
    return False


def _varint(raw: bytes, at: int, end: int) -> tuple[int, int]:
    """A number and where it ends; beyond `end` when it does not."""
    value = shift = 0
    while at < end:
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            break
    return 0, end
