"""Nodes that leave the site for good: only when they are empty, counted nowhere afterwards, and never back under their name."""

from __future__ import annotations

from controlplane.catalogues import built_in
from controlplane.core import events as ev
from controlplane.core.accounting.tally import count
from controlplane.core.draft import Policy, Refusal
from controlplane.core.health.budget import ActionBudget, limit
from controlplane.core.invariants import check
from controlplane.core.state import State
from controlplane.core.vocabulary import JobState, NodeLiveness, NodeService
from tests.support.world import World, spec


def retire(world: World, node: str) -> str:
    answer = world.turn(ev.RetireNode("", node, "sold"))[0]
    return answer.message if isinstance(answer, Refusal) else ""


def service(world: World, node: str) -> NodeService:
    fleet = world.state().fleet
    return NodeService(int(fleet.service[fleet.index[node]]))


def test_an_idle_node_counts_nowhere_any_more() -> None:
    world = World(4)
    world.turn(ev.CordonNode("", "node-03", "ann", "slow"))
    before = count(world.state().fleet).devices
    assert retire(world, "node-03") == ""
    state = world.state()
    assert service(world, "node-03") is NodeService.RETIRED
    assert count(state.fleet).devices == before - 2 == state.fleet.total_accelerators()
    assert state.fleet.facts[3].cordons == ()
    assert limit(state.fleet, ActionBudget(share=0.5)) <= limit(World(4).state().fleet, ActionBudget(share=0.5))
    world.run(400)
    assert check(world.state()) == []
    assert service(world, "node-03") is NodeService.RETIRED
    assert State.from_json(world.state().to_json()).digest() == world.state().digest()


def test_what_somebody_needs_is_refused_with_the_way_out() -> None:
    world = World(4)
    assert "no node is named node-99" in retire(world, "node-99")
    world.submit(spec("moe", 4))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    assert "node-00 holds ranks of moe: `phalanx drain node-00 --wait` first" in retire(world, "node-00")
    spare = world.state().fleet.name(next(iter(world.job("moe").spare_nodes)))
    assert "of moe" in retire(world, spare)
    world.turn(ev.DrainNode("", "node-00", "ann", "old"))
    assert "is DRAINING" in retire(world, "node-00") or "moe" in retire(world, "node-00")
    world.run_until(lambda: service(world, "node-00") is NodeService.OUT_OF_SERVICE)
    assert retire(world, "node-00") == ""
    assert retire(world, "node-00") == "node-00 is retired already"
    world.run(60)
    assert world.job("moe").state is JobState.RUNNING
    assert check(world.state()) == []


def test_a_dead_node_may_go_and_its_agent_is_not_heard_again() -> None:
    world = World(4)
    world.destroy("node-03")
    world.run_until(lambda: world.state().fleet.liveness[3] == NodeLiveness.DEAD)
    assert retire(world, "node-03") == ""
    hello = ev.NodeHello("node-03", "zzz", (), "a:1", "9", (), ())
    answer = world.turn(hello)[0]
    assert isinstance(answer, Refusal)
    assert answer.reason == "NODE_RETIRED"
    world.turn(ev.NodeHello("node-new", "zzz", (), "a:1", "9", (), ()))
    assert service(world, "node-new") is NodeService.IN_SERVICE


def test_a_quarantined_node_may_go_and_health_forgets_it() -> None:
    world = World(4, policy=Policy(catalogue=built_in()))
    world.agents.raise_fault(world.nodes["node-03"], ev.FaultRow("node", "BOARD-7", "simulated"))
    world.nodes["node-03"].incurable = True
    world.run_until(lambda: service(world, "node-03") is NodeService.QUARANTINED)
    while retire(world, "node-03"):
        world.run(1)
    health = world.state().health
    assert not [kept for kept in (health.stays, health.standing, health.sources, health.links) if "node-03" in kept]
    world.run(3_600)
    assert service(world, "node-03") is NodeService.RETIRED
    assert check(world.state()) == []
