"""What stands beside the figures of bench-fleet: bare sockets, etcd's protocol, and the slope of a soak."""

from __future__ import annotations

import pytest

from tests.benchmarks.fleet.etcd_protocol import DELETED, MESSAGES
from tests.benchmarks.fleet.peers import beside, floor
from tests.benchmarks.fleet.soak import slope_mb_per_h
from tests.benchmarks.report import Figure

NODES = 4


def test_bare_sockets_hear_the_generator() -> None:
    found = {figure.id: figure for figure in floor(NODES, 1.5, tls=True)}
    assert found["floor_beat_us"].n >= NODES, "beats that were sent to sessions that were welcome"
    assert {*found} == {"floor_cpu", "floor_beat_us", "floor_hello_ms"}


def test_figures_of_others_stand_beside_ours() -> None:
    ours, theirs = Figure("direct_cpu", 0.7, "cores", 1), Figure("floor_cpu", 0.2, "cores", 1)
    assert [dict(figure.peers) for figure in beside([ours, theirs])] == [{"floor_cpu": 0.2}, {}]
    assert dict(beside([ours])[0].peers) == {}, "what was not measured is not there"


def test_messages_of_etcd() -> None:
    """Bytes by the field numbers of etcd's rpc.proto."""
    assert MESSAGES["LeaseGrantRequest"](TTL=60).SerializeToString() == b"\x08\x3c"
    assert MESSAGES["PutRequest"](key=b"k", value=b"v", lease=7).SerializeToString() == b"\x0a\x01k\x12\x01v\x18\x07"
    event = b"\x08\x01\x12\x03\x0a\x01k"
    answer = MESSAGES["WatchResponse"].FromString(b"\x0a\x02\x08\x01" + b"\x5a" + bytes([len(event)]) + event)
    assert [(found.type, found.kv.key) for found in answer.events] == [(DELETED, b"k")]


def test_the_slope_forgets_how_it_began() -> None:
    at_s = [60.0 * minute for minute in range(31)]
    settled = [100.0 + (minute >= 5) * 50.0 for minute in range(31)]
    assert slope_mb_per_h(at_s, settled) == pytest.approx(0.0, abs=1e-6)
    assert slope_mb_per_h(at_s, [100.0 + 0.1 * minute for minute in range(31)]) == pytest.approx(6.0)
