"""What the wire and people see of a job that runs without some of its replicas."""

from __future__ import annotations

from controlplane.core.effects import Effect, EffectKind
from controlplane.core.spec import CheckpointPolicy, Elastic, Parallel, RestartPolicy, SparePolicy
from controlplane.core.vocabulary import JobState
from controlplane.engine.soft import Progress
from controlplane.rpc.effects import agent_effect
from controlplane.rpc.explain import rank_summary
from controlplane.rpc.generations import GenerationMessages
from controlplane.rpc.views import rank_messages
from tests.support.world import World, spec


def small() -> World:
    """Four replicas of two ranks on four nodes; the last node is lost, and replica 3 with it."""
    world = World(nodes=4, racks=4)
    world.submit(
        spec(
            "moe",
            8,
            parallel=Parallel(tp=2, dp=4),
            elastic=Elastic(2),
            spares=SparePolicy(),
            checkpoint=CheckpointPolicy(),
        )
    )
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    world.destroy("node-03")
    world.run_until(lambda: world.job("moe").participants == 6)
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    return world


def test_absent_ranks_have_no_row_and_no_node() -> None:
    world = small()
    state, job = world.state(), world.job("moe")
    effect = Effect("e1", EffectKind.APPLY_GENERATION, f"job:{job.uid}", 0, job.uid, job.generation, full=True)
    table = agent_effect(effect, state, "node-00", "/s", 0, prepared=GenerationMessages()).effect.apply_generation
    assert sorted(row.rank for row in table.rows) == [0, 1, 2, 3, 4, 5]
    assert (table.world_size, table.kept_step) == (8, 0)
    seen = list(rank_messages(state, job, Progress()))
    assert [rank.node for rank in seen][6:] == ["", ""]
    assert all(not rank.accelerators and not rank.host_id for rank in seen[6:])
    assert rank_summary(state, job, 6).startswith(
        "rank 6 of moe takes no part now, its replica has left: runs with 3 of 4"
    )


def test_a_step_that_is_tried_again_is_told_by_its_number() -> None:
    world = World(nodes=4)
    world.submit(spec("moe", 4, restart_policy=RestartPolicy(retry_step=True)))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    world.run(3.0)
    world.gangs.flap(world.job("moe").uid)
    world.run_until(lambda: world.job("moe").keeps_state)
    job = world.job("moe")
    effect = Effect("e1", EffectKind.APPLY_GENERATION, f"job:{job.uid}", 0, job.uid, job.generation, full=True)
    message = agent_effect(effect, world.state(), "node-00", "/s", 0, prepared=GenerationMessages()).effect
    assert message.apply_generation.kept_step == job.restore_step > 0
