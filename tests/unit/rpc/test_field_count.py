"""Fields are counted before a message is parsed, as the parser would find them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from phalanx.v1 import agent_pb2

from controlplane.rpc import field_count
from controlplane.rpc.field_count import too_many_fields
from tests.fuzz.generator import Generator

DESCRIPTOR = agent_pb2.AgentMessage.DESCRIPTOR


@pytest.fixture(autouse=True)
def _count_small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field_count, "SMALL_BYTES", -1)


def fields_of(message: Any) -> int:
    """By the parsed message. Repeated scalars are packed in proto3; texts are one field each."""
    count = 0
    for field, value in message.ListFields():
        entry = field.message_type is not None and field.message_type.GetOptions().map_entry
        if entry:
            inner = field.message_type.fields_by_name["value"].message_type is not None
            count += sum(3 + (fields_of(value[key]) if inner else 0) for key in value)
        elif field.message_type is not None:
            rows = value if field.is_repeated else [value]
            count += sum(1 + fields_of(row) for row in rows)
        elif field.is_repeated and field.cpp_type == field.CPPTYPE_STRING:
            count += len(value)
        else:
            count += 1
    return count


@pytest.mark.parametrize("seed", range(60))
def test_the_count_is_that_of_the_parsed_message(seed: int) -> None:
    message = Generator(seed, {"": ("a",)}).message(DESCRIPTOR)
    raw, count = message.SerializeToString(), fields_of(message)
    assert not too_many_fields(raw, DESCRIPTOR, count)
    assert not count or too_many_fields(raw, DESCRIPTOR, count - 1)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_it_counts_ends_and_what_parses_is_counted(seed: int) -> None:
    """Of damaged messages the count may be too small only where the parser refuses them."""
    generator = Generator(seed, {"": ("a",)})
    raw = generator.damaged(generator.message(DESCRIPTOR).SerializeToString())
    try:
        count = fields_of(agent_pb2.AgentMessage.FromString(raw))
    except DecodeError:
        too_many_fields(raw, DESCRIPTOR, 1_000)
        return
    assert not count or too_many_fields(raw, DESCRIPTOR, count - 1)


def test_small_messages_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    rows = b"\x22\x00" * (field_count.SMALL_BYTES // 4)
    assert not too_many_fields(rows, agent_pb2.Report.DESCRIPTOR, 10)
    assert too_many_fields(rows * 4, agent_pb2.Report.DESCRIPTOR, 10)


def test_bytes_of_any_kind_come_to_an_end() -> None:
    rng = random.Random(1)
    for _ in range(300):
        too_many_fields(rng.randbytes(rng.randrange(200)), DESCRIPTOR, 1_000)
