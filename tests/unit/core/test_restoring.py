"""The restore point in the whole machine: copies that agents hold, the steps lost, what is booked."""

from __future__ import annotations

from controlplane.core.units import to_s
from controlplane.core.vocabulary import Bucket, JobState
from tests.support.world import World, spec


def saved(*, copies: bool) -> World:
    """A job on four nodes in two racks, some steps after its checkpoint."""
    world = World(5, accelerators=2, racks=5)
    world.submit(spec("moe", 8))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    if copies:
        world.keeps_copies.add("moe")
    world.run(1)
    world.checkpoint("moe", world.gangs.step(world.job("moe").uid))
    world.run(3)
    return world


def recovered(world: World) -> World:
    world.run_until(lambda: world.job("moe").state is not JobState.RUNNING)
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    return world


def test_a_lost_rank_is_given_back_its_copy_and_the_others_keep_theirs() -> None:
    world = saved(copies=True)
    reached = world.gangs.step(world.job("moe").uid)
    world.kill_rank("moe", 3)
    recovered(world)
    job = world.job("moe")
    assert (job.restore_step, job.restore_id) == (reached, "")
    assert dict(job.restored_from) == {"survivor": 7, "memory": 1}
    assert job.recoveries[-1].steps_lost == 0
    assert to_s(job.ledger_ns.get(Bucket.WASTED_PROGRESS, 0)) <= 8 * 0.1, "no more than the step that was under way"


def test_a_burnt_node_is_restored_from_the_copies_elsewhere() -> None:
    world = saved(copies=True)
    reached = world.gangs.step(world.job("moe").uid)
    world.destroy(world.process("moe", 0)[0].name)
    recovered(world)
    job = world.job("moe")
    assert job.restore_step == reached
    assert dict(job.restored_from) == {"survivor": 6, "memory": 2}


def test_when_the_holder_burns_as_well_the_checkpoint_counts() -> None:
    world = saved(copies=True)
    saved_step = max(c.step for c in world.job("moe").checkpoints.values())
    for rank in (0, 2, 4, 6):
        world.destroy(world.process("moe", rank)[0].name)
    for node in list(world.nodes):
        world.repair(node)
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    job = world.job("moe")
    assert job.restore_step == saved_step
    assert job.restored_from == (), "all from the checkpoint"
    assert job.restore_id == f"{job.uid}/g1/step-{saved_step}"


def test_without_copies_the_work_since_the_checkpoint_is_lost() -> None:
    world = saved(copies=False)
    world.kill_rank("moe", 3)
    recovered(world)
    job = world.job("moe")
    assert job.recoveries[-1].steps_lost > 0
    assert to_s(job.ledger_ns[Bucket.WASTED_PROGRESS]) >= 8 * 2
    assert sum(world.state().ledger.site.values()) == world.state().ledger.device_ns
