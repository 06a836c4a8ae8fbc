"""The save interval in the whole machine: decided when a generation begins, announced with it, kept until the next."""

from __future__ import annotations

from dataclasses import replace

from controlplane.core.accounting.pace import Pace
from controlplane.core.draft import Draft, Policy
from controlplane.core.records import CheckpointIntervalSet
from controlplane.core.settling.saving import measured, set_interval
from controlplane.core.spec import AUTO, CheckpointPolicy
from controlplane.core.units import seconds
from controlplane.core.vocabulary import JobState
from tests.support.world import World, spec


def site(**limits: int) -> World:
    world = World(4, accelerators=2)
    world.submit(spec("moe", 4, checkpoint=CheckpointPolicy(every_steps=AUTO, **limits)))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    return world


def decided(world: World, stall_s: float, step_s: float, current: int) -> list[CheckpointIntervalSet]:
    """What would be written if this had been measured."""
    draft = Draft(world.state(), world.now_ns, world.soft, Policy())
    job = replace(world.job("moe"), every_steps=current)
    job.pace = Pace(step_ns=seconds(step_s), stalls_ns=(seconds(stall_s),) * 3)
    set_interval(draft, job)
    return [record for record in draft.records if isinstance(record, CheckpointIntervalSet)]


def test_a_job_begins_with_the_usual_interval_inside_its_limits() -> None:
    assert site().job("moe").saves_every == 100
    assert site(min_steps=300).job("moe").saves_every == 300
    assert site(max_steps=7).job("moe").saves_every == 7


def test_it_follows_what_was_measured() -> None:
    world = site()
    short, long = decided(world, 0.5, 5.0, 100), decided(world, 60.0, 5.0, 100)
    assert short[0].every_steps != long[0].every_steps
    assert short[0].every_steps < long[0].every_steps
    assert "Young/Daly" in short[0].reason
    found = short[0].every_steps
    assert decided(world, 0.5, 5.0, found) == []
    assert decided(world, 0.5, 5.0, round(found * 1.1)) == [], "small differences are noise"


def test_failures_of_the_job_shorten_the_interval() -> None:
    world = site()
    before = measured(Draft(world.state(), world.now_ns, world.soft, Policy()), world.job("moe"))
    world.run(5)
    for _ in range(3):
        world.kill_rank("moe", 1)
        world.run_until(lambda: world.job("moe").state is not JobState.RUNNING)
        world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    after = measured(Draft(world.state(), world.now_ns, world.soft, Policy()), world.job("moe"))
    assert after.between_failures_s < before.between_failures_s / 3


def test_a_fixed_interval_is_left_alone() -> None:
    world = World(4, accelerators=2)
    world.submit(spec("moe", 4))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    assert decided(world, 5.0, 5.0, 0) == []
    assert world.job("moe").saves_every == 20
