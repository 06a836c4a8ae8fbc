"""What a relay says of the agents behind it: under which names, and how much of it."""

from __future__ import annotations

import pytest
from phalanx.v1 import relay_pb2

from controlplane.core.identity import RELAY, Role
from controlplane.observability import Metrics
from controlplane.observability.offenders import Offender
from controlplane.rpc.caller import LOCAL, Caller
from controlplane.rpc.errors import RequestRefused
from controlplane.rpc.relayed_offences import MAX_COUNT, MAX_ROWS, RelayedOffences

RELAY_1 = Caller("spiffe://s/relay/relay-1", RELAY, "relay-1", Role.NONE, "ipv4:10.0.0.1:7", speaks_for=("node-[1-4]",))


def told(relay: Caller, *rows: relay_pb2.RelayedOffence) -> dict[str, Offender]:
    metrics = Metrics()
    RelayedOffences(metrics, relay).note(relay_pb2.RelayedOffences(rows=rows))
    return {row.name: row for row in metrics.offenders.rows()}


def row(node: str, reason: str = "FLOOD", count: int = 3) -> relay_pb2.RelayedOffence:
    return relay_pb2.RelayedOffence(node=node, peer="ipv4:10.0.0.9:", reason=reason, message="too fast", count=count)


def test_a_node_of_the_relay_is_named_with_where_it_was() -> None:
    found = told(RELAY_1, row("node-2"))["node/node-2"]
    assert (found.proven, found.peer) == (True, "ipv4:10.0.0.9")
    assert found.offences["FLOOD"].count == 3
    assert found.offences["FLOOD"].message == "too fast (at relay/relay-1)"


def test_nobody_can_blame_a_node_that_he_does_not_speak_for() -> None:
    found = told(RELAY_1, row("node-9"), row(""))
    assert {name: one.proven for name, one in found.items()} == {
        "node/node-9@relay-1": False,
        "node/unknown@relay-1": False,
    }
    assert not told(LOCAL, row("node-9"))["node/node-9"].proven


def test_what_is_no_offence_of_ours_and_counts_beyond_reason_are_cut() -> None:
    found = told(RELAY_1, row("node-1", "MADE_UP", 2**64 - 1), row("node-2", count=0))
    assert found["node/node-1"].offences["UNKNOWN_MESSAGE"].count == MAX_COUNT
    assert found["node/node-2"].offences["FLOOD"].count == 1


def test_a_relay_tells_no_more_than_it_may() -> None:
    with pytest.raises(RequestRefused) as caught:
        told(RELAY_1, *[row("node-1")] * (MAX_ROWS + 1))
    assert caught.value.refusal.reason == "BAD_COLUMNS"
