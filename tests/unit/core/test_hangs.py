"""A gang that stands still while every process lives: given up after a while, and the one that hangs is found out."""

from __future__ import annotations

from controlplane.core.draft import Policy
from controlplane.core.spec import Timeouts
from controlplane.core.vocabulary import JobState, RankState
from controlplane.sim.world.nodes import Process
from tests.support.world import World, spec

POLICY = Policy(hang_ms=5_000)
TIMEOUTS = Timeouts(start_ms=8_000, join_ms=3_000, stop_ms=2_000)


def running(**changes: object) -> World:
    world = World(3, accelerators=2, racks=1, policy=POLICY)
    world.submit(spec("moe", 4, timeouts=TIMEOUTS, **changes))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    world.run(2)
    return world


def hang(world: World, rank: int) -> Process:
    _, process = world.process("moe", rank)
    assert process is not None
    process.obeys = False
    world.gangs.ended(process)
    return process


def test_a_hang_is_given_up_and_found_out() -> None:
    world = running()
    hanging = hang(world, 2)
    world.run(4)
    assert world.job("moe").state is JobState.RUNNING
    world.run_until(lambda: world.job("moe").generation > 2 and world.job("moe").state is JobState.RUNNING, 60.0)
    assert hanging.state is RankState.EXITED, "nobody but the one that hung was ended"
    assert "no rank has made a step for" in world.job("moe").recoveries[0].cause


def test_steps_that_go_on_are_no_hang() -> None:
    world = running()
    world.run(20)
    assert world.job("moe").generation == 1


def test_what_nobody_can_tell_is_no_hang() -> None:
    world = running()
    hang(world, 2)
    for name in world.nodes:
        world.lose_agent(name)
    world.run(8)
    assert world.job("moe").generation == 1
