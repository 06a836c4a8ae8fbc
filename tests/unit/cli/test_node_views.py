"""`phalanx nodes`: reasons, order, and the description of one node."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from fake_controller import FakeController
from phalanx.v1 import agent_pb2, fleet_pb2
from phalanx.v1 import types_pb2 as t

from cli.errors import Exit

Phalanx = Callable[..., Any]


def node(name: str, beat_s: float, **more: Any) -> fleet_pb2.Node:
    devices = [agent_pb2.AcceleratorStatus(index=0, serial=f"{name}-s0", state=t.ACCELERATOR_STATE_HEALTHY)]
    return fleet_pb2.Node(
        name=name, liveness=t.NODE_LIVENESS_ALIVE, service=t.NODE_SERVICE_IN_SERVICE, labels={"rack": "r1"},
        accelerators=devices, last_beat_age_s=beat_s, **more,
    )  # fmt: skip


@pytest.fixture
def three(controller: FakeController) -> FakeController:
    fault = fleet_pb2.NodeFault(entity="accelerator/0", code="XID-79", level="ISOLATE", reason="fell off the bus")
    stay = fleet_pb2.NodeStay(reason="its driver hangs", level="REBOOT_NODE", age_s=7_500, next_s=600, tries=2)
    stay.waits_for = "its checks failed 2 times and are tried again"
    away = node("node-2", 30.0, health="its checks failed; its driver hangs", stay=stay)
    away.repairs.add(serial="node:node-2", entity="node", ages_s=[90_000.0])
    away.sources.add(node="node-2", name="kernel log", reason="not allowed", node_only=True, age_s=5)
    away.history.add(age_s=7_500, type="NodeQuarantined", message="node-2 was quarantined")
    controller.nodes = {
        one.name: one for one in (node("node-10", 0.5, faults=[fault]), away, node("node-1", float("inf")))
    }
    return controller


@pytest.mark.parametrize("columns", [False, True])
def test_wide_says_why(phalanx: Phalanx, three: FakeController, columns: bool) -> None:
    three.knows_columns = columns
    lines = phalanx("nodes", "-o", "wide").out.splitlines()
    assert "REASON" in lines[0]
    assert "its driver hangs" in lines[2]
    assert "accelerator/0 XID-79 ISOLATE" in lines[3]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("beat", ["node-10", "node-2", "node-1"]),
        ("-beat", ["node-2", "node-10", "node-1"]),
        ("-name", ["node-10", "node-2", "node-1"]),
        ("REASON", ["node-1", "node-10", "node-2"]),
    ],
)
def test_order(phalanx: Phalanx, three: FakeController, sort: str, order: list[str]) -> None:
    assert phalanx("nodes", "--sort", sort, "-o", "name").out.split() == order


def test_an_order_by_nothing_that_is_there_is_a_usage_error(phalanx: Phalanx, three: FakeController) -> None:
    outcome = phalanx("nodes", "--sort", "beet")
    assert outcome.code == Exit.USAGE
    assert "did you mean `beat`?" in outcome.err


def test_nodes_describe_tells_stay_sources_repairs_and_history(phalanx: Phalanx, three: FakeController) -> None:
    out = phalanx("nodes", "describe", "node-2").out
    for part in (
        "taken out by health", "2 h 05 m ago", "its driver hangs", "in 10 m 00 s", "node only", "kernel log",
        "node:node-2", "25 h 00 m ago", "node-2 was quarantined",
    ):  # fmt: skip
        assert part in out, part
    assert out == phalanx("describe", "node", "node-2").out


def test_nodes_describe_takes_ranges_and_forms(phalanx: Phalanx, three: FakeController) -> None:
    found = json.loads(phalanx("nodes", "describe", "node-[1-2]", "-o", "json").out)
    assert [item["name"] for item in found] == ["node-1", "node-2"]
    assert found[1]["stay"]["tries"] == 2
    assert phalanx("nodes", "describe").code == Exit.USAGE
    assert phalanx("nodes", "describe", "node-[1-65]").code == Exit.USAGE
    assert phalanx("nodes", "describe", "nobody").code == Exit.NOT_FOUND
