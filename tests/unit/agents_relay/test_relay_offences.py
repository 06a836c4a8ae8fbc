"""What a relay keeps of agents that misbehave, until it is told; and that it counts fields as the controller does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from grpc import aio
from phalanx.v1 import agent_pb2

import agents.relay.field_count
import controlplane.rpc.field_count
from agents.node.observability import Counters
from agents.relay import door
from agents.relay.door import MOST_BYTES, Door, too_large
from agents.relay.offences import EVERY_S, MAX_ROWS, Offences
from controlplane.rpc.guard import LIMITS
from controlplane.rpc.relayed_offences import MAX_ROWS as TAKEN_ROWS


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_offences_are_told_together_and_once() -> None:
    clock = Clock()
    kept = Offences(clock)
    assert kept.take() is None
    for number in range(3):
        kept.note("node-1", "ipv4:10.0.0.9:", "FLOOD", f"text {number}")
    kept.note("node-2", "ipv4:10.0.0.8:", "NOT_YOUR_NAME", "thief")
    told = kept.take()
    assert told is not None
    assert [(row.node, row.reason, row.count, row.message) for row in told.rows] == [
        ("node-1", "FLOOD", 3, "text 2"), ("node-2", "NOT_YOUR_NAME", 1, "thief"),
    ]  # fmt: skip
    kept.note("node-1", "", "FLOOD", "again")
    assert kept.take() is None, "not twice in a second"
    clock.now_s += EVERY_S
    again = kept.take()
    assert again is not None
    assert [row.count for row in again.rows] == [1]


def test_more_offenders_than_can_be_named_are_counted() -> None:
    kept = Offences(Clock())
    for number in range(10 * MAX_ROWS):
        kept.note(f"node-{number}" * 100, "p" * 9_000, "FLOOD", "t" * 9_000)
    told = kept.take()
    assert told is not None
    assert len(told.rows) == MAX_ROWS <= TAKEN_ROWS
    assert sum(row.count for row in told.rows) == 10 * MAX_ROWS
    assert told.ByteSize() < MAX_ROWS * 1_000


def test_a_flood_at_the_door_is_noted_under_the_nodes_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "Pace", lambda: SimpleNamespace(rest_s=lambda: 1e-6))
    beat = agent_pb2.AgentMessage(beat=agent_pb2.Beat(sequence=1)).SerializeToString()
    messages = [aio.EOF, beat, beat, beat]

    class Context:
        async def read(self) -> Any:
            return messages.pop()

    offences, heard = Offences(Clock()), list[str]()
    table = SimpleNamespace(heard=lambda stream, beat: heard.append(stream.node))
    stream = SimpleNamespace(over=False, node="node-1", table=table)
    one = Door(cast("Any", SimpleNamespace(offences=offences)), Counters(), trusted=True)
    asyncio.run(one._read(Context(), cast("Any", stream), "ipv4:10.0.0.9:"))
    told = offences.take()
    assert told is not None
    assert [(row.node, row.reason, row.count, row.peer) for row in told.rows] == [
        ("node-1", "FLOOD", 3, "ipv4:10.0.0.9:")
    ]
    assert heard == ["node-1"] * 3, "it is heard all the same, no faster"


def test_a_relay_counts_fields_as_its_controller_does() -> None:
    """Agents and controllers share the protocol and no code; this is the same text twice."""
    one, other = (Path(str(module.__file__)) for module in (agents.relay.field_count, controlplane.rpc.field_count))
    assert one.read_text() == other.read_text()


def test_what_a_controller_would_not_parse_a_relay_does_not() -> None:
    assert LIMITS["AgentService/Session"] == MOST_BYTES
    assert "bytes" in too_large(b"\x12" * (MOST_BYTES + 1))
    rows = b"\x22\x00" * 100_000
    report = b"\x1a" + bytes([len(rows) & 127 | 128, len(rows) >> 7 & 127 | 128, len(rows) >> 14]) + rows
    assert "fields" in too_large(report)
    assert too_large(b"") == too_large(b"garbage") == ""
