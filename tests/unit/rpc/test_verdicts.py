"""`why node` and `why checkpoint` at length: incidents that a node had a part in, and who decided over a checkpoint."""

from __future__ import annotations

from phalanx.v1 import event_pb2

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.jobs import Exit
from controlplane.core.spec import CheckpointPolicy, JobRule, JobSpec, Match, RestartPolicy, RuleAction, SparePolicy
from controlplane.core.vocabulary import JobState
from controlplane.rpc import verdicts
from controlplane.rpc.explain import explain
from controlplane.rpc.history import decode
from controlplane.rpc.progress import ProgressGate
from controlplane.rpc.verdicts import Nodes, Pair
from tests.support.world import World, spec


def told(world: World, kind: str, name: str) -> list[event_pb2.Decision]:
    """What `why` tells at length, read as the service reads it."""
    wanted = explain(
        world.state(), ProgressGate(world.soft), event_pb2.SubjectKind.Value(f"SUBJECT_KIND_{kind}"), name, world.now_ns
    ).verdicts  # type: ignore[arg-type] # the world's soft state
    entries = world.journal.newest(wanted.limit, job=wanted.job, types=wanted.types)
    pairs: list[Pair] = [(entry, decode(entry)) for entry in entries]
    nodes: Nodes = {
        (record.job, serial): node
        for entry in world.journal.read(0, 100_000)
        if isinstance(record := decode(entry), r.HostsRequested)
        for serial, node in zip(record.serials, record.nodes, strict=True)
    }
    return wanted.tell(pairs, nodes if wanted.placed else {})


def started(world: World, wanted: JobSpec) -> World:
    world.submit(wanted)
    world.run_until(lambda: world.job(wanted.name).state is JobState.RUNNING)
    world.run(1)
    return world


def recovered(world: World, generation: int) -> None:
    world.run_until(
        lambda: world.job("moe").state is JobState.RUNNING and world.job("moe").generation == generation, limit_s=300
    )


def moe(keep: int = 2, **more: object) -> JobSpec:
    return spec("moe", 4, spares=SparePolicy(), checkpoint=CheckpointPolicy(keep=keep), **more)


def crash(world: World, rank: int, message: str = "boom", code: int = 1) -> None:
    world.end("moe", rank, Exit(observed=True, code=code, message=message, group_empty=True))
    world.run(1)


def test_a_node_tells_of_the_incidents_that_it_had_a_part_in() -> None:
    world = started(World(3), moe())
    crash(world, 0)
    recovered(world, 2)
    crash(world, 3)
    recovered(world, 3)
    (first,) = told(world, "NODE", "node-00")
    assert first.verdict.startswith("moe: RESTART_RANK, charged to user: rank 0 exited with code 1")
    assert list(first.evidence_ids)
    (second,) = told(world, "NODE", "node-01")
    assert "rank 3 exited" in second.verdict
    assert told(world, "NODE", "node-02") == []


def test_a_second_node_in_one_incident_is_told_of_too() -> None:
    world = started(World(4), moe())
    world.destroy("node-00")
    world.destroy("node-01")
    world.run_until(lambda: world.job("moe").generation == 2, limit_s=300)
    assert told(world, "NODE", "node-00")
    assert told(world, "NODE", "node-01")
    assert told(world, "NODE", "node-03") == []


def test_a_checkpoint_tells_which_rule_rolled_back_past_it() -> None:
    rule = JobRule(Match(message="loss is nan"), RuleAction.ROLLBACK, checkpoints=1, then_poison=True)
    world = started(World(3), moe(restart_policy=RestartPolicy(job_rules=(rule,))))
    for step in (10, 20):
        world.checkpoint("moe", step)
        world.run(1)
    crash(world, 1, "loss is nan")
    recovered(world, 2)
    decisions = told(world, "CHECKPOINT", "moe-1/g1/step-20")
    poisoned = next(one for one in decisions if one.verdict.startswith("POISONED"))
    assert poisoned.rule == "jobRules[0]"
    assert any("exited" in text for text in poisoned.evidence)
    assert list(poisoned.evidence_ids)
    used = told(world, "CHECKPOINT", "moe-1/g1/step-10")
    assert used[-1].verdict == "restored: generation 2 started from it"


def test_a_checkpoint_tells_of_doubt_of_who_had_it_and_of_who_cleared_it() -> None:
    world = started(World(3), moe())
    world.checkpoint("moe", 10)
    world.run(2)
    world.turn(ev.PoisonCheckpoint("q", "moe", "moe-1/g1/step-10", "loss looks odd"))
    world.run(1)
    world.turn(ev.ClearCheckpoints("q2", "moe", "ann", "a replay agrees"))
    doubt, cleared = told(world, "CHECKPOINT", "moe-1/g1/step-10")[-2:]
    assert "POISONED: results are in doubt from step 10 on: " in doubt.verdict
    assert any("PoisonCheckpoint" in text for text in doubt.evidence)
    assert cleared.verdict == "the doubt was cleared by ann: a replay agrees"
    assert [text.rpartition(": ")[2] for text in cleared.evidence] == ["ClearCheckpoints"]


def test_a_checkpoint_that_retention_let_go_says_by_which_rule_and_what_was_kept() -> None:
    world = started(World(3), moe(keep=1))
    for step in (10, 20, 30):
        world.checkpoint("moe", step)
        world.run(2)
    (gone,) = [one for one in told(world, "CHECKPOINT", "moe-1/g1/step-10") if "EXPIRED" in one.verdict]
    assert gone.rule.startswith("retention keeps the newest 1, ")
    assert gone.evidence[0].startswith("moe-1/g1/step-")


def test_only_what_covers_a_checkpoint_is_about_it() -> None:
    doubt = r.CorruptionSuspected("moe-1", 1, 20, 2, "why")
    assert verdicts.is_about(doubt, "moe-1/g2/step-20")
    assert not verdicts.is_about(doubt, "moe-1/g2/step-19"), "an earlier step"
    assert not verdicts.is_about(doubt, "moe-1/g3/step-20"), "a later generation"
    assert not verdicts.is_about(doubt, "other-1/g1/step-20"), "another job"
    started_from = r.GenerationStarted("moe-1", 3, (), (), "", 10, passed_over=("step 20: no digest of rank 3",))
    assert verdicts.is_about(started_from, "moe-1/g2/step-20")
    assert not verdicts.is_about(started_from, "moe-1/g2/step-2")
