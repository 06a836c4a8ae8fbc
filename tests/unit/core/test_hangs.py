"""A gang that stands still while every process lives: agents are asked where its ranks stand, and who hangs is lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.core import records as r
from controlplane.core.accounting.pace import Pace
from controlplane.core.draft import Policy
from controlplane.core.health.standstill import Verdict
from controlplane.core.softstate import StepTimes
from controlplane.core.spec import CheckpointPolicy, Timeouts
from controlplane.core.sweeping.hangs import hang_limit_ns, learned_limit_ns, limit_of
from controlplane.core.units import ms, seconds
from controlplane.core.vocabulary import JobState, RankState
from controlplane.sim.world.agents import OLDER_VERSION
from controlplane.sim.world.nodes import Process
from tests.support.world import World, spec

POLICY = Policy(hang_floor_ms=3_000, hang_gather_ms=1_000)
TIMEOUTS = Timeouts(start_ms=8_000, join_ms=3_000, stop_ms=2_000)


def running(policy: Policy = POLICY, **changes: object) -> World:
    world = World(3, accelerators=2, racks=1, policy=policy)
    world.submit(spec("moe", 4, timeouts=TIMEOUTS, **changes))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    world.run(3)
    return world


def hang(world: World, rank: int) -> Process:
    _, process = world.process("moe", rank)
    assert process is not None
    process.obeys = False
    world.gangs.ended(process)
    return process


def judged(world: World) -> list[r.HangJudged]:
    entries = world.journal.read(0, 100_000)
    records = [r.decode(entry.type, entry.version, entry.body) for entry in entries if entry.type == "HangJudged"]
    return [record for record in records if isinstance(record, r.HangJudged)]


def test_the_rank_that_hangs_is_named_and_lost_at_once() -> None:
    world = running()
    hanging = hang(world, 2)
    others = [world.process("moe", rank)[1] for rank in (0, 1, 3)]
    world.run(2.5)
    assert world.job("moe").state is JobState.RUNNING
    assert world.job("moe").hang is None
    world.run_until(lambda: world.job("moe").generation == 2 and world.job("moe").state is JobState.RUNNING, 8.0)
    assert hanging.state is RankState.EXITED
    assert [process.exit for process in others if process] == [None] * 3, "nobody but the one that hung was ended"
    (verdict,) = judged(world)
    assert (verdict.verdict, verdict.ranks) == (Verdict.ODD, (2,))
    recovery = world.job("moe").recoveries[0]
    assert recovery.cause.startswith("hang: 3 of 4 ranks wait in all_reduce #")
    assert "rank 2 (node node-" in recovery.cause
    assert "is in data.py:load" in recovery.cause
    assert recovery.ranks == (2,)
    assert world.job("moe").hang is None
    assert not world.state().effects


def test_two_that_hang_are_lost_together() -> None:
    world = running()
    hang(world, 1)
    hang(world, 3)
    world.run_until(lambda: world.job("moe").generation == 2 and world.job("moe").state is JobState.RUNNING, 12.0)
    assert judged(world)[0].ranks == (1, 3)
    recovery = world.job("moe").recoveries[0]
    assert "rank 1 (node " in recovery.cause
    assert "rank 3 (node " in recovery.cause
    (lost,) = [
        r.decode(one.type, one.version, one.body) for one in world.journal.read(0, 100_000) if one.type == "RanksLost"
    ]
    assert isinstance(lost, r.RanksLost)
    assert [entry.cause for entry in lost.lost] == [recovery.cause, "hangs as rank 1 does"], "told once"


def test_agents_that_cannot_answer_leave_it_as_it_was() -> None:
    world = running(Policy(hang_floor_ms=3_000, hang_gather_ms=1_000, hang_ms=20_000))
    for node in world.nodes.values():
        node.version = OLDER_VERSION
    hanging = hang(world, 2)
    world.run(18)
    assert world.job("moe").generation == 1
    assert judged(world)[0].verdict is Verdict.UNCLEAR
    assert judged(world)[0].again_ns
    world.run_until(lambda: world.job("moe").generation > 2 and world.job("moe").state is JobState.RUNNING, 60.0)
    assert hanging.state is RankState.EXITED, "it did not come to the next generation"
    assert "none of them says why" in world.job("moe").recoveries[0].cause
    assert len(judged(world)) <= 5, "looked at again after twice the time"


def test_an_agent_that_is_silent_makes_the_evidence_incomplete() -> None:
    world = running(Policy(hang_floor_ms=3_000, hang_gather_ms=1_000, hang_ms=20_000))
    hang(world, 2)
    world.nodes["node-00"].deaf = True
    world.run(6)
    (verdict,) = judged(world)
    assert verdict.verdict is Verdict.UNCLEAR
    assert "of 2 nothing was heard" in verdict.reason
    assert world.job("moe").state is JobState.RUNNING
    assert not [effect for effect in world.state().effects.values() if effect.kind == "gather_stacks"]


def test_a_look_that_another_loss_overtakes_is_over_without_a_word() -> None:
    world = running(replace(POLICY, effect_ms=10_000))
    world.nodes["node-00"].deaf = True
    hang(world, 2)
    world.run_until(lambda: world.job("moe").hang is not None, 8.0)
    world.kill_rank("moe", 3)
    assert world.job("moe").hang is None
    world.nodes["node-00"].deaf = False
    world.run(30)
    assert world.job("moe").state is JobState.RUNNING
    assert not world.state().effects
    entries = world.journal.read(0, 100_000)
    records = [
        r.decode(one.type, one.version, one.body) for one in entries if one.type in ("HangSuspected", "EffectsFinished")
    ]
    (asked,) = [one.effect for one in records if isinstance(one, r.HangSuspected)]
    assert [one.ok for one in records if isinstance(one, r.EffectsFinished) and asked in one.ids] == [True]


def test_steps_that_go_on_are_no_hang() -> None:
    world = running()
    world.run(20)
    assert world.job("moe").generation == 1
    assert not judged(world)


def test_what_nobody_can_tell_is_no_hang() -> None:
    world = running(Policy(hang_ms=5_000, hang_floor_ms=3_000))
    hang(world, 2)
    for name in world.nodes:
        world.lose_agent(name)
    world.run(8)
    assert world.job("moe").generation == 1


def test_a_controller_that_begins_anew_looks_anew() -> None:
    world = running()
    world.nodes["node-00"].deaf = True
    hang(world, 2)
    world.run_until(lambda: world.job("moe").hang is not None, 8.0)
    world.restart_controller()
    world.nodes["node-00"].deaf = False
    world.run_until(lambda: world.job("moe").generation == 2 and world.job("moe").state is JobState.RUNNING, 20.0)
    assert [one.verdict for one in judged(world)] == [Verdict.OVER, Verdict.ODD]


def test_what_hangs_at_the_same_step_again_has_the_whole_time() -> None:
    """A rank that computes for long while the others wait looks like one that hangs; it must not be ended for ever."""
    world = running(checkpoint=CheckpointPolicy(every_steps=0))
    hang(world, 2)
    world.run_until(lambda: world.job("moe").generation == 2 and world.job("moe").state is JobState.RUNNING, 12.0)
    job = world.job("moe")
    (verdict,) = judged(world)
    assert job.hung_step == verdict.step > 16
    gang = world.gangs.find("moe")
    assert gang is not None
    world.run_until(lambda: gang.at(world.now_ns)[0] == verdict.step, 60.0, tick_s=0.05)
    limits = limit_of(world.job("moe"), world.state().fleet, world.soft, POLICY)
    assert limits == hang_limit_ns(POLICY, world.soft.step_time_ns(job.uid))
    world.run(1)
    assert limit_of(world.job("moe"), world.state().fleet, world.soft, POLICY) == ms(POLICY.hang_floor_ms)


def test_a_save_has_the_time_that_saves_take() -> None:
    world = running(checkpoint=CheckpointPolicy(every_steps=1))
    uid = world.job("moe").uid

    def limit_s(*stalls_s: float) -> float:
        job = world.job("moe").clone()
        job.pace = Pace(stalls_ns=tuple(seconds(stall_s) for stall_s in stalls_s))
        return limit_of(job, world.state().fleet, world.soft, POLICY) / seconds(1)

    fixed_s = hang_limit_ns(POLICY, world.soft.step_time_ns(uid)) / seconds(1)
    assert limit_s() == fixed_s, "no save was seen yet"
    assert limit_s(0.2) == POLICY.hang_floor_ms / 1_000
    assert limit_s(0.2, 8.0) == pytest.approx(24.3)
    assert limit_s(900.0) == fixed_s


@pytest.mark.parametrize(
    ("times", "limit_s"),
    [
        (StepTimes(), 600.0),  # nothing is known yet
        (StepTimes(15, ms(100), 0, ms(100)), 600.0),
        (StepTimes(16, ms(100), 0, ms(100)), 10.0),  # the floor
        (StepTimes(500, seconds(1), ms(20), seconds(12)), 36.0),  # three times a step with a checkpoint
        (StepTimes(500, seconds(5), seconds(2), seconds(9)), 45.0),  # they vary
        (StepTimes(500, seconds(30), 0, seconds(400)), 600.0),  # never later than without knowing
    ],
)
def test_the_limit_is_learned(times: StepTimes, limit_s: float) -> None:
    assert learned_limit_ns(Policy(), ms(100), times) == seconds(limit_s)
