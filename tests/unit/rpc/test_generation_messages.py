"""What nodes are told of a generation: the same for all, built once, and the rows of their own ranks."""

from __future__ import annotations

import pytest
from phalanx.v1 import agent_pb2

from controlplane.core.effects import Effect, EffectKind
from controlplane.core.spec import Parallel
from controlplane.core.vocabulary import JobState
from controlplane.rpc.effects import Superseded, agent_effect
from controlplane.rpc.generations import GenerationMessages
from tests.support.world import World, spec

NODES, RANKS = 4, 8


@pytest.fixture(scope="module")
def world() -> World:
    world = World(nodes=NODES)
    world.submit(spec("moe", RANKS, parallel=Parallel(dp=RANKS)))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    return world


def announcement(world: World, *, items: tuple[str, ...] = (), nodes: tuple[str, ...] = ()) -> Effect:
    job = world.job("moe")
    target = f"job:{job.uid}"
    return Effect("e1", EffectKind.APPLY_GENERATION, target, 0, job.uid, job.generation, items=items, nodes=nodes)


def told(
    world: World, effect: Effect, node: str, prepared: GenerationMessages, *, own_rows: bool
) -> agent_pb2.ApplyGeneration:
    message = agent_effect(effect, world.state(), node, "/s", 0, prepared=prepared, own_rows=own_rows)
    return message.effect.apply_generation


def test_every_rank_is_told_to_its_own_node_and_to_no_other(world: World) -> None:
    prepared, job = GenerationMessages(), world.job("moe")
    ranks: list[int] = []
    for number in job.nodes():
        node = world.state().fleet.name(number)
        message = told(world, announcement(world), node, prepared, own_rows=True)
        assert {row.node for row in message.rows} == {node}
        assert [row.rank for row in message.rows] == [binding.rank for binding in message.bindings]
        assert (message.own_rows, message.base_generation, message.world_size) == (True, 0, RANKS)
        ranks += [binding.rank for binding in message.bindings]
    assert sorted(ranks) == list(range(RANKS))


def test_an_agent_that_does_not_say_so_gets_tables_and_patches(world: World) -> None:
    prepared, job = GenerationMessages(), world.job("moe")
    first = world.state().fleet.name(job.nodes()[0])
    effect = announcement(world, items=("3",), nodes=(first,))
    whole = told(world, effect, first, prepared, own_rows=False)
    assert [row.rank for row in whole.rows] == list(range(RANKS))
    assert (whole.base_generation, whole.own_rows) == (0, False)
    other = world.state().fleet.name(job.nodes()[-1])
    patch = told(world, effect, other, prepared, own_rows=False)
    assert [row.rank for row in patch.rows] == [3]
    assert patch.base_generation == job.generation - 1
    assert {binding.rank for binding in patch.bindings} != {binding.rank for binding in whole.bindings}


def test_a_node_without_ranks_is_bound_to_nothing(world: World) -> None:
    message = told(world, announcement(world), "nowhere", GenerationMessages(), own_rows=True)
    assert (len(message.rows), len(message.bindings)) == (0, 0)


def test_what_was_prepared_follows_the_state() -> None:
    """The same effect, told again after its ranks have moved: nobody gets what was prepared before."""
    world, prepared = World(nodes=NODES + 1), GenerationMessages()
    world.submit(spec("moe", RANKS, parallel=Parallel(dp=RANKS)))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    before = world.job("moe")
    old = announcement(world)
    lost = world.state().fleet.name(before.nodes()[0])
    assert len(told(world, old, lost, prepared, own_rows=True).rows) > 0
    world.destroy(lost)
    world.run_until(lambda: world.job("moe").generation > before.generation)
    assert len(told(world, announcement(world), lost, prepared, own_rows=True).rows) == 0
    with pytest.raises(Superseded):
        told(world, old, lost, prepared, own_rows=True)


def test_what_is_kept_of_a_node_is_what_would_be_built_anew() -> None:
    """One process is replaced where it was, so that its node has the same ranks and another host id; the others keep theirs."""
    world, kept = World(nodes=NODES), GenerationMessages()
    world.submit(spec("moe", RANKS, parallel=Parallel(dp=RANKS)))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    names = [world.state().fleet.name(number) for number in world.job("moe").nodes()]
    before = [told(world, announcement(world), name, kept, own_rows=True) for name in names]
    assert world.kill_rank("moe", 0)
    world.run_until(lambda: world.job("moe").generation > 1)
    assert {world.state().fleet.name(number) for number in world.job("moe").nodes()} == {*names}
    after = [told(world, announcement(world), name, kept, own_rows=True) for name in names]
    assert after == [told(world, announcement(world), name, GenerationMessages(), own_rows=True) for name in names]
    changed = [was.bindings != now.bindings for was, now in zip(before, after, strict=True)]
    assert changed.count(True) == 1
