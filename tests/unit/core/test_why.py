"""What would have to change: each answer is true when it is followed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.jobs import Exit
from controlplane.core.spec import (
    Budget,
    CheckpointPolicy,
    JobRule,
    JobSpec,
    Match,
    RestartPolicy,
    RuleAction,
    SparePolicy,
)
from controlplane.core.vocabulary import CheckpointState, JobState
from controlplane.core.why import Moment, checkpoint_changes, job_changes, node_changes, rank_changes
from tests.support.world import World, spec


def changes(world: World, name: str = "moe", rank: int | None = None) -> tuple[str, ...]:
    state, job = world.state(), world.job(name)
    entries = world.journal.newest(1, job=job.uid, types=("RecoveryDecided",))
    verdict = r.decode(entries[-1].type, entries[-1].version, entries[-1].body) if entries else None
    assert verdict is None or isinstance(verdict, r.RecoveryDecided)
    at = Moment(world.now_ns, world.soft.progress(job.uid)[0])
    return job_changes(state, job, verdict, at) if rank is None else rank_changes(state, job, rank, verdict, at)


def running(world: World, wanted: JobSpec) -> None:
    world.submit(wanted)
    world.run_until(lambda: world.job(wanted.name).state is JobState.RUNNING)


def crash(world: World, code: int = 1, message: str = "boom") -> None:
    world.end("moe", 1, Exit(observed=True, code=code, message=message, group_empty=True))
    world.run(1)


def plain(name: str = "moe", ranks: int = 4, **more: object) -> JobSpec:
    return spec(name, ranks, spares=SparePolicy(), **more)


def test_a_spent_budget() -> None:
    world = World(3)
    running(world, plain(restart_policy=RestartPolicy(user=Budget(0, 3_600_000, 200))))
    crash(world)
    world.run_until(lambda: world.job("moe").state is JobState.FAILED)
    found = changes(world)
    assert found[0] == "restartPolicy.budgets.user.max above 0, or a window shorter than 3600 s"


def test_a_rule_that_failed_the_job() -> None:
    world = World(3)
    rule = JobRule(Match(exit_codes=(42,)), RuleAction.FAIL)
    running(world, plain(restart_policy=RestartPolicy(job_rules=(rule,))))
    crash(world, 42)
    world.run_until(lambda: world.job("moe").state is JobState.FAILED)
    assert changes(world)[0].startswith("without jobRules[0] the rules after it would have decided")


def test_a_rule_that_suspended_the_job_and_the_operator_who_lets_it_go_on() -> None:
    world = World(3)
    rules = (
        JobRule(Match(message="look"), RuleAction.SUSPEND),
        JobRule(Match(exit_codes=(1,)), RuleAction.RESTART_JOB),
    )
    running(world, plain(restart_policy=RestartPolicy(job_rules=rules)))
    crash(world, 1, "look at me")
    assert world.job("moe").state is JobState.SUSPENDED
    assert changes(world) == ("`phalanx restart moe` lets it go on", "without jobRules[0] it would be restartJob")
    world.run(30)
    assert world.job("moe").state is JobState.SUSPENDED, "nothing but an operator ends it"
    world.turn(ev.RestartJob("go", "moe", "looked at"))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    assert changes(world) == ()


def test_a_cordon_that_keeps_a_job_from_its_place() -> None:
    world = World(2)
    for node in ("node-00", "node-01"):
        world.turn(ev.CordonNode("", node, "operator", "look"))
    world.submit(plain())
    world.run(1)
    assert changes(world) == ("uncordon all 2 nodes that operator cordoned, among them node-00: operator holds them",)
    world.turn(ev.UncordonNode("", "node-00", "operator"))
    assert changes(world) == ("uncordon node-01: operator holds it",)
    world.turn(ev.UncordonNode("", "node-01", "operator"))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)


def test_spares_and_jobs_of_others() -> None:
    world = World(3)
    running(world, spec("first", 4, spares=SparePolicy(1)))
    world.submit(plain("moe", 2))
    world.run(1)
    assert changes(world) == ("the 1 spare node of first", "the end of first (priority 0)")


def test_no_room_at_all() -> None:
    world = World(2)
    running(world, plain())
    world.destroy("node-01")
    world.run_until(lambda: world.job("moe").state is JobState.SUSPENDED, limit_s=400)
    (job, *node) = changes(world, rank=3)
    assert job.startswith("more nodes: room for 2 ranks")
    assert node[0] == "for node-01: its agent opens a new session: start it, or repair the node"


def test_a_node_says_what_it_needs() -> None:
    world = World(2)
    assert node_changes(world.state(), 0) == ()
    world.turn(ev.CordonNode("", "node-00", "ann", "look"))
    world.lose_agent("node-00")
    world.set_raylet("node-00", up=False)
    assert node_changes(world.state(), 0) == (
        "ann takes its cordon back: `phalanx uncordon node-00 --owner ann`",
        "its agent is heard again",
        "its raylet joins the cell",
    )


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (CheckpointState.POISONED, "a poisoned checkpoint is never restored"),
        (CheckpointState.VERIFIED, "moe-1/g1/step-40 would have to be poisoned or gone"),
    ],
)
def test_checkpoints(state: CheckpointState, said: str) -> None:
    world = World(3)
    running(world, plain(checkpoint=CheckpointPolicy(every_steps=20)))
    for step in (20, 40):
        world.checkpoint("moe", step)
        world.run(2)
    world.checkpoint("moe", 60, [0, 1])
    world.run(1)
    job = world.job("moe").clone()
    assert checkpoint_changes(job, "moe-1/g1/step-40") == ()
    assert checkpoint_changes(job, "moe-1/g1/step-60") == ("2 more ranks of generation 1 report their part",)
    job.restore_limit = 20
    assert "nothing after step 20" in checkpoint_changes(job, "moe-1/g1/step-40")[0]
    job.restore_limit = -1
    old = "moe-1/g1/step-20"
    job.checkpoints = {**job.checkpoints, old: replace(job.checkpoints[old], state=state)}
    assert said in checkpoint_changes(job, old)[0]
    assert "a pin" in checkpoint_changes(job, "moe-1/g1/step-10")[0]
