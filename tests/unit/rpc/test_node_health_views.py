"""What operators are told of one node's health: its stay, its faults, the repairs of its parts, and why in one line."""

from __future__ import annotations

from dataclasses import replace

from phalanx.v1 import fleet_pb2

from cli.kinds import columns_of
from controlplane.catalogues import built_in
from controlplane.core import events as ev
from controlplane.core.draft import Policy, QuarantinePolicy
from controlplane.core.health.book import Source
from controlplane.core.vocabulary import NodeService
from controlplane.rpc.node_columns import NodeListing
from controlplane.rpc.node_health_views import HEALTH_HISTORY, history, reason
from controlplane.rpc.views import node_message
from tests.support.world import World

LOST = ev.FaultRow("accelerator/1", "SIM-DEAD", "simulated", message="no answer")
DRIVER = ev.FaultRow("node", "SIM-DRIVER", "simulated")


def site() -> World:
    return World(3, 2, 1, Policy(catalogue=built_in(), quarantine=QuarantinePolicy(trial_ms=100_000)))


def told(world: World, name: str) -> fleet_pb2.Node:
    return node_message(world.state(), world.state().fleet.index[name], world.now_ns, world.now_ns)


def test_a_node_that_waits_for_a_part_says_which_and_since_when() -> None:
    world = site()
    world.agents.raise_fault(world.nodes["node-01"], LOST)
    world.run(10, 1)
    node = told(world, "node-01")
    assert node.service == NodeService.QUARANTINED
    assert node.stay.waits_for == "it waits for a new part"
    assert node.stay.level == "RETURN_TO_VENDOR"
    assert list(node.stay.serials) == [node.accelerators[1].serial]
    assert 9 <= node.stay.age_s <= 11
    (fault,) = node.faults
    assert (fault.entity, fault.serial, fault.message) == ("accelerator/1", node.accelerators[1].serial, "no answer")
    assert not told(world, "node-00").HasField("stay")


def test_repairs_are_told_by_serial_and_the_way_back_in_sentences() -> None:
    world = site()
    for _ in range(2):
        world.agents.raise_fault(world.nodes["node-00"], replace(DRIVER, raised_ns=world.now_ns))
        world.run_until(lambda: told(world, "node-00").service == NodeService.PROBATION)
        world.run(5, 1)
    node = told(world, "node-00")
    (part,) = node.repairs
    assert (part.serial, part.entity, len(part.ages_s)) == ("node:node-00", "node", 2)
    assert part.ages_s[0] < part.ages_s[1], "newest first"
    assert node.stay.waits_for == "it works on trial"
    assert 190 <= node.stay.next_s <= 200, "the second trial is twice as long"
    types = tuple(kind.__name__ for kind in HEALTH_HISTORY)
    events = history(world.journal.newest(12, node="node-00", types=types), world.now_ns)
    assert [event.type for event in events] == ["TrialStarted", "ChecksStarted", "NodeQuarantined"] * 2
    assert events[0].age_s < events[-1].age_s
    assert "repair 2 within" in events[0].message


def test_the_reason_is_the_same_in_columns_and_in_messages_and_tells_the_worst() -> None:
    world = site()
    world.set_fault("node-02", 0, "SIM-SLOW")
    world.agents.raise_fault(world.nodes["node-02"], ev.FaultRow("node", "SIM-WARM", "simulated"))
    world.agents.raise_fault(world.nodes["node-01"], LOST)
    world.run(1)
    state = world.state().fork()
    state.own_health().sources["node-00"] = (Source("kernel log", "not allowed", (-1,), 1),)
    reasons = [reason(state, number) for number in range(3)]
    assert reasons[0] == "cannot read kernel log"
    assert reasons[1].startswith("it waits for a new part; accelerator/1 reports SIM-DEAD")
    assert reasons[2] == "accelerator/0 SIM-SLOW DEGRADED, and 1 more"
    columns = NodeListing().columns(state, [0, 0, 0], world.now_ns)
    assert [columns.texts[index] for index in columns.reasons] == reasons
    same = columns_of([node_message(state, number, 0, world.now_ns) for number in range(3)])
    assert [same.texts[index] for index in same.reasons] == reasons
