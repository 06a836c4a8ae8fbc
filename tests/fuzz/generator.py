"""Hostile messages from descriptors: random ones, mutated and truncated valid ones, and bytes that are none."""

from __future__ import annotations

import math
import os
import random
import sys
from collections.abc import Iterator
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, ServiceDescriptor
from google.protobuf.message import Message

SEED = int(os.environ.get("PHALANX_FUZZ_SEED", "1")) or random.SystemRandom().randrange(1, 2**31)
"""0: another one each time, as `make soak-fuzz` has it; whoever changes a line must not meet another's bug by chance."""
SECONDS = float(os.environ.get("PHALANX_FUZZ_SECONDS", "3"))
"""How long each test sends; `make soak-fuzz` sets minutes."""
TIMED = "PHALANX_FUZZ_SECONDS" in os.environ
"""Whether tests that need nobody else go on for that time; by default they play a fixed number of rounds, the same each time."""

MAX_DEPTH = 4
HUGE_BYTES = 300_000

INTEGERS = (
    0,
    1,
    2,
    3,
    7,
    255,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -1,
    -(2**31),
    -(2**63),
)
FLOATS = (0.0, -0.0, 1.0, 0.5, -1.0, 1e308, 5e-324, math.inf, -math.inf, math.nan)
TEXTS = (
    "", " ", "\0", "\n", "a", "../../etc/passwd", "/", "/tmp", "-", "--", "%s%n", "'; drop table records;--", "\u202e", "é",
    "\U0001d518", "\x1b[31m", "x" * 64, "x" * 1001, "{}", "null", "node[0001-9999]", "sha256:" + "0" * 64, "1h",
    "99999999999h", "nan",
)  # fmt: skip

_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def show(text: str) -> None:
    """A line that pytest shows with a failure, and always with `-s`."""
    sys.stdout.write(text + "\n")


class Generator:
    """Messages by a seed. `words`: texts that mean something to the receiver, by field name and for any field ("")."""

    def __init__(self, seed: int, words: dict[str, tuple[str, ...]]) -> None:
        self.rng = random.Random(seed)
        self._words = words

    def message(self, descriptor: Descriptor, depth: int = 0) -> Message:
        """A well-formed message with random content."""
        message: Message = message_factory.GetMessageClass(descriptor)()
        chance = self.rng.choice((0.2, 0.6, 0.95))
        for group in descriptor.oneofs:
            if self.rng.random() < 0.95:
                self._fill(message, self.rng.choice(group.fields), depth)
        for field in descriptor.fields:
            if field.containing_oneof is None and self.rng.random() < chance:
                self._fill(message, field, depth)
        return message

    def wire(self, descriptor: Descriptor, valid: Message | None = None) -> bytes:
        """What is sent: mostly readable, sometimes damaged, sometimes nothing like a message."""
        kind = self.rng.random()
        if kind < 0.05:
            return self.rng.randbytes(self.rng.choice((0, 1, 3, 17, 200)))
        base = valid if valid is not None and self.rng.random() < 0.5 else self.message(descriptor)
        if base is valid:
            base = self._altered(valid)
        data = base.SerializePartialToString()
        if kind < 0.75:
            return data
        return self.damaged(data)

    def damaged(self, data: bytes) -> bytes:
        """Truncated, with flipped bits, repeated, or with an unknown field in front."""
        out = bytearray(data)
        match self.rng.randrange(5):
            case 0:
                return bytes(out[: self.rng.randrange(len(out) + 1)])
            case 1:
                for _ in range(self.rng.randrange(1, 9)):
                    if out:
                        out[self.rng.randrange(len(out))] ^= 1 << self.rng.randrange(8)
            case 2:
                return bytes(out * self.rng.randrange(2, 5))
            case 3:
                return b"\xfa\x3f\x03abc" + bytes(out)  # field 1023, length-delimited
            case _:
                at = self.rng.randrange(len(out) + 1)
                out[at:at] = b"\x0a\xff\xff\xff\x7f"  # a length far beyond the end
        return bytes(out)

    def _altered(self, valid: Message) -> Message:
        """A valid message with one to three fields changed somewhere."""
        copy: Message = type(valid)()
        copy.CopyFrom(valid)
        for _ in range(self.rng.randrange(1, 4)):
            target = self._somewhere(copy)
            fields = target.DESCRIPTOR.fields
            if fields:
                field = self.rng.choice(fields)
                if self.rng.random() < 0.3:
                    target.ClearField(field.name)
                else:
                    self._fill(target, field, MAX_DEPTH - 1)
        return copy

    def _somewhere(self, message: Message) -> Message:
        inner = [
            value for field, value in message.ListFields() if field.message_type is not None and not field.is_repeated
        ]
        return self._somewhere(self.rng.choice(inner)) if inner and self.rng.random() < 0.7 else message

    def _fill(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        if field.message_type is not None and depth >= MAX_DEPTH:
            return
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            self._fill_map(getattr(message, field.name), field.message_type, depth)
        elif field.is_repeated:
            target = getattr(message, field.name)
            for _ in range(self.rng.choice((0, 1, 2, 3, 40))):
                if field.message_type is not None:
                    target.add().CopyFrom(self.message(field.message_type, depth + 1))
                else:
                    target.append(self._scalar(field))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(self.message(field.message_type, depth + 1))
        else:
            setattr(message, field.name, self._scalar(field))

    def _fill_map(self, target: Any, entry: Descriptor, depth: int) -> None:
        key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
        for _ in range(self.rng.choice((0, 1, 3, 20))):
            if value.message_type is None:
                target[self._scalar(key)] = self._scalar(value)
            else:
                target[self._scalar(key)].CopyFrom(self.message(value.message_type, depth + 1))

    def _scalar(self, field: FieldDescriptor) -> Any:
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING:
                return self._bytes() if field.type == FieldDescriptor.TYPE_BYTES else self._text(field.name)
            case FieldDescriptor.CPPTYPE_BOOL:
                return self.rng.random() < 0.5
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return self.rng.choice(FLOATS)
            case FieldDescriptor.CPPTYPE_ENUM:
                known = [value.number for value in field.enum_type.values]
                return self.rng.choice((*known, *known, 99, -1, 2**31 - 1))
            case kind:
                low, high = _RANGES[kind]
                small = self.rng.random() < 0.5
                return self.rng.randrange(5) if small else self.rng.choice([v for v in INTEGERS if low <= v <= high])

    def _text(self, name: str) -> str:
        if name == "request_id" and self.rng.random() < 0.7:
            return f"fuzz-{self.rng.getrandbits(64):x}"  # not one that was used: repeats are answered from memory
        if self.rng.random() < 0.002:
            return "y" * HUGE_BYTES
        words = self._words.get(name, ()) or self._words[""]
        return self.rng.choice(words if self.rng.random() < 0.6 else TEXTS)

    def _bytes(self) -> bytes:
        return self.rng.randbytes(self.rng.choice((0, 1, 100, 70_000)))


def methods(services: list[ServiceDescriptor]) -> Iterator[tuple[str, Any]]:
    """Every method as its full path and descriptor."""
    for service in services:
        for method in service.methods:
            yield f"/{service.full_name}/{method.name}", method
