"""Who keeps copies for whom and who fetches what, as each node is told; and whom a verdict waits for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from phalanx.v1 import agent_pb2

from controlplane.core.draft import Draft
from controlplane.core.recovery.restore_point import Copies, Tier, restore_point
from controlplane.core.settling.waiting import waits_for_copies
from controlplane.core.spec import Parallel
from controlplane.core.units import ms
from controlplane.core.vocabulary import JobState
from controlplane.engine.held import MEMORY, MEMORY_UNIQUE, SURVIVOR, HeldRows, HeldStates
from controlplane.rpc.memory_plans import MemoryPlans
from tests.support.world import World, spec


@pytest.fixture(scope="module")
def running() -> World:
    """Eight ranks on four nodes of a rack each."""
    world = World(nodes=4, racks=4)
    world.submit(spec("moe", 8, parallel=Parallel(dp=8)))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    return world


def rows(*found: tuple[int, int, int]) -> HeldRows:
    ranks, steps, kinds = zip(*found, strict=True)
    return HeldRows(np.array(ranks, np.int32), np.array(steps, np.int64), np.array(kinds, np.uint8))


def book(world: World, *, without: str = "") -> HeldStates:
    held = HeldStates()
    for name in world.nodes:
        number = world.state().fleet.number(name)
        assert number is not None
        held.place(number, "" if name == without else f"{name}:1")
    return held


def plan(world: World, held: HeldStates, node: str, **job: Any) -> agent_pb2.MemoryPlan:
    made = MemoryPlans(replace(world.job("moe"), **job), world.state(), held)
    return agent_pb2.ApplyGeneration.FromString(made.of(world.state().fleet.number(node))).memory


def test_every_node_has_a_holder_that_knows_of_it(running: World) -> None:
    plans = {name: plan(running, book(running), name) for name in running.nodes}
    for name, told in plans.items():
        assert told.holder.node not in {"", name}
        assert told.holder.address == f"{told.holder.node}:1"
        assert name in plans[told.holder.node].keeps
        assert (list(told.lends), list(told.sources)) == ([], [])
    assert sum(len(told.keeps) for told in plans.values()) == len(plans)


def test_a_node_that_keeps_nothing_is_no_holder(running: World) -> None:
    held = book(running, without="node-02")
    assert all(plan(running, held, name).holder.node != "node-02" for name in running.nodes)
    assert plan(running, HeldStates(), "node-00") == agent_pb2.MemoryPlan()


def test_a_rank_whose_state_lies_elsewhere_fetches_it_and_only_its_owner_lends(running: World) -> None:
    job, fleet = running.job("moe"), running.state().fleet
    home = int(job.rank_node[0])
    others = [number for number in np.unique(job.rank_node).tolist() if number != home]
    held = book(running)
    held.tell(job.uid, 8, job.generation, others[0], rows((0, 7, MEMORY_UNIQUE), (0, 6, MEMORY)))
    held.tell(job.uid, 8, job.generation, others[1], rows((0, 7, SURVIVOR)))
    held.tell(job.uid, 8, job.generation, int(job.rank_node[7]), rows((7, 7, MEMORY)))
    held.rewind(job.uid, job.generation)
    start = {"restored_from": (("memory", 8),), "restore_step": 7}
    told = plan(running, held, fleet.name(home), **start)
    assert [(source.rank, source.owner.node) for source in told.sources] == [(0, fleet.name(others[0]))]
    assert list(plan(running, held, fleet.name(others[0]), **start).lends) == [fleet.name(home)]
    assert list(plan(running, held, fleet.name(others[1]), **start).lends) == []
    assert list(plan(running, held, fleet.name(home)).sources) == [], "from a checkpoint nothing is fetched"


def test_a_whole_state_is_fetched_rather_than_one_that_needs_a_replica(running: World) -> None:
    job, fleet = running.job("moe"), running.state().fleet
    first, second = [n for n in np.unique(job.rank_node).tolist() if n != int(job.rank_node[0])][:2]
    held = book(running)
    held.tell(job.uid, 8, job.generation, first, rows((0, 7, MEMORY_UNIQUE)))
    held.tell(job.uid, 8, job.generation, second, rows((0, 7, MEMORY)))
    held.rewind(job.uid, job.generation)
    told = plan(running, held, fleet.name(int(job.rank_node[0])), restored_from=(("memory", 8),), restore_step=7)
    assert [source.owner.node for source in told.sources] == [fleet.name(second)]


class Said:
    """Soft state of the simulated site, in which these nodes have said what they hold."""

    def __init__(self, world: World, told: list[int] | None) -> None:
        self._soft = world.soft
        self._told = None if told is None else np.array(told, dtype=np.int64)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._soft, name)

    def copies(self, _uid: str) -> Copies:
        return replace(Copies.none(), told=self._told)


def waits(world: World, told: list[int] | None, after_ms: int = 0) -> bool:
    job, policy = world.job("moe"), world.machine.policy
    since_ns = world.leader.clock_ns()
    draft = Draft(world.state(), since_ns + ms(after_ms), cast("Any", Said(world, told)), policy)
    return waits_for_copies(draft, job, since_ns)


def test_a_verdict_waits_until_all_have_told_and_no_longer(running: World) -> None:
    nodes = sorted({*running.job("moe").rank_node.tolist()})
    limit = running.machine.policy.copies_wait_ms
    assert waits(running, [])
    assert waits(running, nodes[:-1])
    assert not waits(running, nodes)
    assert waits(running, nodes[:-1], limit - 1)
    assert not waits(running, nodes[:-1], limit)
    assert not waits(running, None), "nobody keeps anything"


def partial(*found: tuple[int, bool]) -> Copies:
    """One state of each rank: (step, partial)."""
    step = np.array([[step] for step, _ in found], dtype=np.int64)
    tier = np.full(step.shape, Tier.MEMORY, dtype=np.uint8)
    owner = np.arange(len(found), dtype=np.int32)[:, None]
    return Copies(step, owner, tier, np.ones(step.shape, bool), partial=np.array([[part] for _, part in found]))


@pytest.mark.parametrize(
    ("held", "step"),
    [
        (partial((7, True), (7, False), (7, True), (7, False)), 7),
        (partial((7, True), (7, True), (7, False), (7, False)), 0),  # of the first group nobody has the rest
        (partial((7, True), (6, False), (7, True), (7, False)), 0),  # its replica has it, of another step
        (partial((7, False), (7, False), (7, False), (7, False)), 7),
    ],
)
def test_a_copy_without_what_replicas_hold_needs_a_replica_at_the_same_step(held: Copies, step: int) -> None:
    groups = np.array([0, 0, 1, 1], dtype=np.int32)
    assert restore_point(np.ones(4, bool), held, [], replicas=groups).step == step
