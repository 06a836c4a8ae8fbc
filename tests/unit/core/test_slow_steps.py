"""Defects of believing that were found by reading: slow steps are no stopped steps, old words are no witness,
labels change."""

from __future__ import annotations

import pytest

from controlplane.core import events as ev
from controlplane.core.draft import Policy
from controlplane.core.fleet import DOMAIN_KINDS
from controlplane.core.health.suspicion import SuspicionPolicy
from controlplane.core.spec import SparePolicy
from controlplane.core.vocabulary import JobState, NodeLiveness
from tests.support.world import World, spec


def liveness(world: World, name: str) -> NodeLiveness:
    fleet = world.state().fleet
    return NodeLiveness(int(fleet.liveness[fleet.index[name]]))


def test_a_silent_agent_of_a_job_with_slow_steps_is_not_dead() -> None:
    """Steps of ten seconds: for most of the time the newest one is older than a lease."""
    world = World(nodes=4)
    world.timings.step_s = 10.0
    world.submit(spec("moe", 4, spares=SparePolicy()))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    world.run(25)
    world.lose_agent("node-00")
    for _ in range(60):
        world.run(1)
        assert liveness(world, "node-00") is not NodeLiveness.DEAD
    assert world.job("moe").generation == 1
    # On another node: that the steps end now says nothing of the one whose agent has been gone for long.
    world.hang("moe", 3)
    world.run(40)
    assert liveness(world, "node-00") is NodeLiveness.SUSPECT


def test_slow_steps_that_end_with_a_node_are_a_witness_within_three_of_them() -> None:
    world = World(nodes=4)
    world.timings.step_s = 10.0
    world.submit(spec("moe", 4, spares=SparePolicy()))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    world.run(25)
    world.hang("moe", 0)
    world.lose_agent("node-00")
    world.run(20)
    assert liveness(world, "node-00") is NodeLiveness.SUSPECT
    world.run(20)
    assert liveness(world, "node-00") is NodeLiveness.DEAD


def test_who_fell_silent_last_is_no_witness_of_what_came_after() -> None:
    """The path of a whole job breaks, one node of it 300 ms later: nobody was there to see that its steps stopped, and the
    rack in which it stands is not lost."""
    world = World(nodes=10, racks=2)
    world.timings.step_s = 1.0
    world.submit(spec("moe", 10, spares=SparePolicy()))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    world.run(5)
    step, _ = world.gangs.told("moe-1")
    while world.gangs.told("moe-1")[0] == step:
        world.run(0.1)
    *most, last = sorted({world.process("moe", rank)[0].name for rank in range(10)})
    world.run(0.4)
    for name in most:
        world.freeze(name)
    world.run(0.3)
    world.freeze(last)
    for _ in range(100):
        world.run(0.1)
        assert NodeLiveness.DEAD not in {liveness(world, name) for name in (*most, last)}
    assert world.job("moe").generation == 1


def test_steps_that_had_stopped_long_before_are_no_witness_of_a_silence() -> None:
    """A job hangs; minutes later the path of half of it breaks."""
    world = World(nodes=10, racks=2)
    world.submit(spec("moe", 20, spares=SparePolicy()))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    world.run(5)
    world.hang("moe", 19)
    world.run(120)
    for number in range(5):
        world.freeze(f"node-0{number}")
    world.run(20)
    assert NodeLiveness.DEAD not in {liveness(world, f"node-0{number}") for number in range(10)}


def test_links_that_were_called_broken_before_a_node_was_heard_again_are_no_witness() -> None:
    world = World(nodes=4)

    def call_broken() -> None:
        for name in ("node-00", "node-01"):
            world.turn(ev.NodeReport(name, world.nodes[name].boot_id, broken_links=("node-03",)))

    call_broken()
    world.run(10)
    world.freeze("node-03")
    world.run(10)
    assert liveness(world, "node-03") is NodeLiveness.SUSPECT
    call_broken()
    world.run(1)
    assert liveness(world, "node-03") is NodeLiveness.DEAD, "said again, of this silence"


@pytest.mark.parametrize(("left_s", "then"), [(300, NodeLiveness.SUSPECT), (50, NodeLiveness.DEAD)])
def test_a_raylet_that_left_long_before_is_no_witness_of_a_silence(left_s: int, then: NodeLiveness) -> None:
    world = World(nodes=6, racks=3)
    world.run(10)
    world.set_raylet("node-05", up=False)
    world.run(left_s)
    world.freeze("node-05")
    world.run(10)
    assert liveness(world, "node-05") is then


def test_three_raylets_that_left_long_before_do_not_bury_a_site_that_is_out_of_sight() -> None:
    """The path to everything breaks, and some raylets had crashed five minutes ago: they did not die with the silence, and
    neither did their racks."""
    world = World(nodes=16, racks=4)
    world.submit(spec("moe", 16, spares=SparePolicy()))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    for name in ("node-00", "node-05", "node-10"):
        world.set_raylet(name, up=False)
    world.run(300)
    for name in world.nodes:
        world.freeze(name)
    world.run(20)
    assert {liveness(world, name) for name in world.nodes} == {NodeLiveness.UNKNOWN}


@pytest.mark.parametrize(("enough", "then"), [(2, NodeLiveness.DEAD), (3, NodeLiveness.SUSPECT)])
def test_how_many_nodes_must_call_links_broken_is_a_setting(enough: int, then: NodeLiveness) -> None:
    world = World(nodes=4, policy=Policy(suspicion=SuspicionPolicy(link_witnesses=enough)))
    world.freeze("node-03")
    for name in ("node-00", "node-01"):
        world.turn(ev.NodeReport(name, world.nodes[name].boot_id, broken_links=("node-03",)))
    world.run(10)
    assert liveness(world, "node-03") is then


@pytest.mark.parametrize(("steps", "then"), [(3, NodeLiveness.DEAD), (10, NodeLiveness.SUSPECT)])
def test_how_many_steps_must_be_missing_is_a_setting(steps: int, then: NodeLiveness) -> None:
    world = World(nodes=4, policy=Policy(suspicion=SuspicionPolicy(slow_steps=steps)))
    world.timings.step_s = 10.0
    world.submit(spec("moe", 4, spares=SparePolicy()))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    world.hang("moe", 0)
    world.lose_agent("node-00")
    world.run(50)
    assert liveness(world, "node-00") is then


def test_labels_that_change_move_a_node_to_its_new_domains() -> None:
    world = World(nodes=4, racks=2)
    node = world.nodes["node-00"]
    labels = (("power", "feed-b"), ("rack", "r9"))
    world.turn(ev.NodeHello("node-00", node.boot_id, labels, "127.0.0.1", "0", (), node.devices()))
    fleet = world.state().fleet
    assert fleet.racks[fleet.rack[0]] == "r9"
    named = [names[at] if at >= 0 else "" for names, at in zip(fleet.domain_names, fleet.domains[0], strict=True)]
    assert dict(zip(DOMAIN_KINDS, named, strict=True)) == {
        "rack": "r9",
        "switch": "",
        "power": "feed-b",
        "superpod": "",
    }


@pytest.mark.parametrize("speaks", [True, False], ids=["both witnesses speak on", "one falls silent with the node"])
def test_a_witness_of_broken_links_has_spoken_since_the_node_fell_silent(*, speaks: bool) -> None:
    """Whose own links broke at that moment called the others unreachable too, and that was its last word."""
    world = World(nodes=8)
    for witness in ("node-00", "node-01"):
        machine = world.nodes[witness]
        world.agents.tell([(machine, ev.NodeReport(witness, machine.boot_id, broken_links=("node-03",)))])
    world.freeze("node-03")
    if not speaks:
        world.freeze("node-01")
    world.run(5)
    assert liveness(world, "node-03") is (NodeLiveness.DEAD if speaks else NodeLiveness.SUSPECT)
