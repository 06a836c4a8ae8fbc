"""A job that starts from another one's checkpoint, whatever its layout: found at submit, kept, never replaced by nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.core import events as ev
from controlplane.core.draft import Answer, Refusal
from controlplane.core.spec import CheckpointPolicy, JobSpec, Parallel
from controlplane.core.state import State
from controlplane.core.vocabulary import JobState
from controlplane.engine.recover import load
from tests.support.world import World, spec


def saved() -> World:
    """`moe` has run with four ranks, saved steps 20 and 40, and was cancelled."""
    world = World(4)
    world.submit(spec("moe", 4))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    world.run(1)
    for step in (20, 40):
        world.checkpoint("moe", step)
        world.run(1)
    world.turn(ev.CancelJob("", "moe", ""))
    world.run_until(lambda: world.job("moe").terminal)
    return world


def wants(origin: str, ranks: int = 2) -> JobSpec:
    return replace(spec("half", ranks), checkpoint=CheckpointPolicy(every_steps=20, keep=1, resume_from=origin))


def submit(world: World, asked: JobSpec) -> Answer | Refusal:
    answer = world.turn(ev.SubmitJob("", asked))[0]
    assert isinstance(answer, Answer | Refusal)
    return answer


@pytest.mark.parametrize(("origin", "step"), [("moe", 40), ("moe-1/g1/step-20", 20)])
def test_the_first_generation_starts_from_it_with_another_layout(origin: str, step: int) -> None:
    world = saved()
    asked = replace(wants(origin), parallel=Parallel(dp=2, ep=2))
    assert isinstance(submit(world, asked), Answer)
    world.run_until(lambda: world.job("half").generation == 1)
    assert (world.job("half").restore_step, world.job("half").restore_id) == (step, f"moe-1/g1/step-{step}")
    assert load(world.journal).digest() == world.state().digest()
    assert State.from_json(world.state().to_json()).digest() == world.state().digest()


def test_its_own_checkpoints_follow_and_what_it_came_from_is_kept_in_both_jobs() -> None:
    world = saved()
    submit(world, wants("moe"))
    world.run_until(lambda: world.job("half").generation == 1)
    for step in (60, 80, 100):
        world.checkpoint("half", step)
        world.run(1)
    kept = world.job("half").checkpoints
    assert {"moe-1/g1/step-40", "half-2/g1/step-100"} <= kept.keys()
    assert "half-2/g1/step-60" not in kept
    assert [pin.owner for pin in world.job("moe").checkpoints["moe-1/g1/step-40"].pins] == ["job/half-2"]


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        ("nobody", "there is no job of nobody"),
        ("moe-9/g1/step-40", "there is no job of moe-9/g1/step-40"),
        ("moe-1/g1/step-60", "moe has no checkpoint that can be restored"),
    ],
)
def test_what_is_not_there_is_refused_with_the_way_out(origin: str, text: str) -> None:
    world = saved()
    refused = submit(world, wants(origin))
    assert isinstance(refused, Refusal)
    assert (refused.code, refused.reason) == ("invalid", "NO_SUCH_CHECKPOINT")
    assert text in refused.message
    assert "phalanx" in refused.message


def test_a_poisoned_one_is_refused() -> None:
    world = saved()
    world.turn(ev.PoisonCheckpoint("", "moe", "moe-1/g1/step-40", "odd loss"))
    refused = submit(world, wants("moe-1/g1/step-40"))
    assert isinstance(refused, Refusal)
    assert "moe-1/g1/step-40 is POISONED" in refused.message


def test_a_job_whose_origin_cannot_be_read_fails_and_does_not_start_from_nothing() -> None:
    """As with a checkpoint of another architecture, which only the ranks can tell."""
    world = saved()
    submit(world, wants("moe"))
    world.stores.damage("moe-1/g1/step-40")
    world.run_until(lambda: world.job("half").terminal)
    job = world.job("half")
    assert job.state is JobState.FAILED
    assert "was to resume from moe" in job.end_reason
    assert "could not restore" in job.end_reason
    assert job.generation == 1
