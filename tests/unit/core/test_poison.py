"""Doubt about results: what was saved since the first sign is not restored until it is cleared, and nothing good is deleted."""

from __future__ import annotations

import dataclasses

import pytest

from controlplane.core import events as ev
from controlplane.core import poison
from controlplane.core.apply import apply
from controlplane.core.checkpoints import expirable, first_suspect_step, passed_over, pinned, restore_point
from controlplane.core.draft import Answer, Draft, Policy, Refusal
from controlplane.core.jobs import Exit, Job
from controlplane.core.records import CorruptionCleared
from controlplane.core.units import seconds
from controlplane.core.vocabulary import CheckpointState, JobState
from tests.support.world import World, spec


def saved(*steps: int) -> World:
    """A job that has made checkpoints of these steps, one second apart."""
    world = World(3, accelerators=2)
    world.submit(spec("moe", 4))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    for step in steps:
        world.run(1)
        world.checkpoint("moe", step)
    return world


def drafted(world: World, act: object) -> Job:
    """The job after what `act(draft, job)` wrote, on a copy of the state."""
    draft = Draft(world.state(), world.now_ns, world.soft, Policy())
    assert callable(act)
    act(draft, world.job("moe"))
    draft.finish()
    state = world.state().fork()
    for record in draft.records:
        apply(state, record, world.now_ns)
    return state.jobs[world.job("moe").uid]


def states(job: Job) -> dict[int, CheckpointState]:
    return {c.step: c.state for c in job.checkpoints.values()}


@pytest.mark.parametrize(("before_last", "suspect"), [(0.5, (60,)), (1.5, (40, 60)), (100.0, (20, 40, 60))])
def test_what_was_saved_since_the_first_sign_is_poisoned(before_last: float, suspect: tuple[int, ...]) -> None:
    world = saved(20, 40, 60)
    since_ns = world.now_ns - seconds(before_last)
    job = drafted(world, lambda draft, job: poison.suspect(draft, job, since_ns, "results disagree"))
    poisoned = {step for step, state in states(job).items() if state is CheckpointState.POISONED}
    assert poisoned == set(suspect)
    point = restore_point(job.checkpoints.values())
    assert (point.step if point else 0) == max({0, 20, 40, 60} - {60, *suspect})
    assert expirable(job.checkpoints.values(), 1, "") == () or pinned(job.checkpoints.values()) == point


def test_a_save_under_way_is_poisoned_when_it_is_complete_and_the_next_generation_is_free_of_it() -> None:
    world = saved(20)
    world.checkpoint("moe", 40, [0, 1])
    assert isinstance(world.turn(ev.PoisonCheckpoint("", "moe", "moe-1/g1/step-20", "odd loss"))[0], Answer)
    world.checkpoint("moe", 40, [2, 3])
    assert states(world.job("moe")) == dict.fromkeys((20, 40), CheckpointState.POISONED)
    world.kill_rank("moe", 0)
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    assert world.job("moe").restore_step == 0
    world.run(1)
    world.checkpoint("moe", 50)
    assert states(world.job("moe"))[50] is not CheckpointState.POISONED
    assert isinstance(world.turn(ev.ClearCheckpoints("", "moe", "ann", "replay agrees"))[0], Answer)
    world.run(3)
    assert states(world.job("moe")) == dict.fromkeys((20, 40, 50), CheckpointState.VERIFIED)
    again = world.turn(ev.ClearCheckpoints("", "moe", "ann", "replay agrees"))[0]
    assert isinstance(again, Refusal)
    assert again.reason == "NOT_SUSPECTED"


def test_clearing_gives_back_only_what_doubt_had_poisoned() -> None:
    world = saved(20, 40, 60)
    uid = world.job("moe").uid

    def doubt_and_damage(draft: Draft, job: Job) -> None:
        poison.roll_back(draft, job, 1, "rolled back")
        poison.suspect(draft, job, world.now_ns - seconds(1.5), "results disagree")

    job = drafted(world, doubt_and_damage)
    assert [c.step for c in job.checkpoints.values() if c.suspected] == [40]
    state = world.state().fork()
    state.jobs[uid] = job
    apply(state, CorruptionCleared(uid, "ann", "replay agrees"), world.now_ns)
    after = states(state.jobs[uid])
    assert after[40] is CheckpointState.COMMITTED, "to be read back anew"
    assert after[60] is CheckpointState.POISONED
    assert state.jobs[uid].suspicion is None


def test_a_later_doubt_does_not_narrow_the_first() -> None:
    world = saved(20, 40, 60)

    def twice(draft: Draft, job: Job) -> None:
        poison.suspect(draft, job, world.now_ns - seconds(1.5), "first")
        poison.suspect(draft, job, world.now_ns, "second")

    job = drafted(world, twice)
    assert job.suspicion is not None
    assert (job.suspicion.first_step, job.suspicion.reason) == (21, "first")
    again = drafted(world, lambda draft, job: poison.clear(draft, job, "ann", ""))
    assert again == world.job("moe"), "nothing to clear, nothing changes"


def test_rollback_passes_over_the_newest() -> None:
    job = saved(20, 40, 60).job("moe")
    known = job.checkpoints.values()
    assert [c.step for c in passed_over(known, 2)] == [60, 40]
    assert [c.step for c in passed_over(known, 9)] == [60, 40, 20]
    assert first_suspect_step(known, 0) == 1


def test_suspects_are_kept_for_a_while_because_doubt_may_be_cleared() -> None:
    job = saved(20, 40, 60).job("moe")
    known = [
        dataclasses.replace(c, state=CheckpointState.POISONED, suspected=True) if c.step < 60 else c
        for c in job.checkpoints.values()
    ]
    assert expirable(known, 2, "") == ()
    assert expirable(known, 1, "") == tuple(c.id for c in known if c.step == 20)


@pytest.mark.parametrize(
    ("ranks", "taken"), [((0,), {"node-00"}), ((1, 2), {"node-00", "node-01"}), ((0, 1, 2, 3, 4), {"node-00"})]
)
def test_two_that_disagree_again_both_lose_their_node_and_more_are_no_pair(
    ranks: tuple[int, ...], taken: set[str]
) -> None:
    world = World(5, accelerators=2)
    world.submit(spec("moe", 6))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    for rank in ranks:
        world.end("moe", rank, Exit(observed=True, code=17, message="replicas differ", group_empty=True))
    world.run(3)
    assert {
        name for name in world.nodes if any(f"NodeQuarantined node={name} " in line for line in world.lines)
    } == taken
