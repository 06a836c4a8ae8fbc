"""Loss and gradients that are off: what counts, what follows, and when it is enough."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.apply import apply
from controlplane.core.draft import Refusal
from controlplane.core.evidence import Reason
from controlplane.core.health.numbers import LEAST, MOST_SKIPS, SPIKE_STEPS, WINDOW, Finding, Skip, Told, judge
from controlplane.core.spec import Budget, JobRule, Match, RestartPolicy, RuleAction
from controlplane.core.vocabulary import Blame, CheckpointState, JobState
from controlplane.engine.soft import StepColumns
from controlplane.rpc.number_watch import REPEAT_STEPS, NumberWatch
from tests.support.world import World, spec

LONG = 60


def noisy(step: int) -> float:
    """A loss that falls slowly and wobbles, the same in every run."""
    return 5.0 - 0.01 * step + 0.1 * math.sin(step * 1.7)


def curve(length: int, changed: Callable[[int], float | None] = lambda _: None, every: int = 1) -> dict[int, Told]:
    """A quiet training, apart from what `changed` says of a step's loss."""
    told = {}
    for step in range(1, length + 1, every):
        other = changed(step)
        told[step] = Told(noisy(step) if other is None else other, math.nan)
    return told


def test_a_quiet_training_is_not_off() -> None:
    assert judge({}) is None
    assert judge(curve(WINDOW)) is None
    assert judge(curve(WINDOW, lambda step: 2.0 if step > 200 else None)) is None, "it may fall as it likes"


def test_what_is_not_finite_counts_at_once_and_begins_after_the_last_good_step() -> None:
    finding = judge(curve(41, lambda step: math.inf if step >= 31 else None, every=10))
    assert finding == Finding(Reason.LOSS_NOT_FINITE, 22, 31, "the loss of step 31 is not a finite number")
    norms = {1: Told(1.0, 1.0), 2: Told(1.0, math.inf)}
    off = judge(norms)
    assert off is not None
    assert (off.first_step, off.last_step, off.text) == (
        2,
        2,
        "the norm of the gradients of step 2 is not a finite number",
    )


@pytest.mark.parametrize(("steps", "height", "found"), [
    (SPIKE_STEPS, 9.0, True),
    (SPIKE_STEPS - 1, 9.0, False),  # it is over soon
    (SPIKE_STEPS, noisy(LONG) + 0.3, False),  # within what is usual
])  # fmt: skip
def test_a_spike_is_high_and_lasts(steps: int, height: float, found: bool) -> None:
    finding = judge(curve(LONG, lambda step: height if step > LONG - steps else None))
    assert (finding is not None) == found
    if finding is not None:
        assert (finding.kind, finding.first_step, finding.last_step) == (Reason.LOSS_SPIKE, LONG - steps + 1, LONG)
        assert "the loss is 9 in steps 56 to 60, usual are 4.7" in finding.text


def test_a_spike_needs_a_past() -> None:
    length = LEAST + SPIKE_STEPS
    assert judge(curve(length - 1, lambda step: 90.0 if step >= length - SPIKE_STEPS else None)) is None
    assert judge(curve(length, lambda step: 90.0 if step > length - SPIKE_STEPS else None)) is not None


def test_gradients_spike_too() -> None:
    told = {step: Told(math.nan, 40.0 if step > LONG - SPIKE_STEPS else 1.0) for step in range(1, LONG + 1)}
    finding = judge(told)
    assert finding is not None
    assert finding.kind is Reason.GRADIENT_SPIKE


def columns(step: int, losses: list[float]) -> StepColumns:
    size = len(losses)
    zeros = np.zeros(size, dtype=np.int64)
    return StepColumns(np.arange(size), zeros, np.full(size, step), zeros, np.array(losses), np.zeros(size))


def test_the_watch_tells_once_in_a_while_and_forgets_what_is_done_again() -> None:
    watch, told = NumberWatch(), []
    watch.tell = lambda job, generation, finding: told.append((job, generation, finding.first_step))
    watch.take("j", 1, columns(1, [math.nan, math.nan]))
    watch.take("j", 1, columns(10, [2.0, 2.1, math.nan]))
    watch.take("j", 1, columns(20, [2.0, math.inf]))
    for step in range(21, 20 + REPEAT_STEPS):
        watch.take("j", 1, columns(step, [math.inf]))
    assert told == [("j", 1, 11)]
    watch.take("j", 1, columns(20 + REPEAT_STEPS, [math.inf]))
    assert len(told) == 2, "nobody has listened"
    watch.rewind("j", 15)
    watch.take("j", 2, columns(16, [2.0]))
    assert len(told) == 2
    watch.take("j", 2, columns(17, [math.inf]))
    assert told[-1] == ("j", 2, 17)
    for step in range(1, 3 * WINDOW):
        watch.take("k", 1, columns(step, [1.0]))
    assert len(watch._told["k"]) == WINDOW
    watch.forget("k")
    assert "k" not in watch._told


def saved(*steps: int, **changes: object) -> World:
    """A job that runs and has made checkpoints of these steps."""
    world = World(3, accelerators=2)
    world.submit(spec("moe", 4, **changes))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    for step in steps:
        world.run(1)
        world.checkpoint("moe", step)
    world.run(1)
    return world


def off(world: World, first: int, last: int, kind: Reason = Reason.LOSS_NOT_FINITE) -> Refusal | None:
    job = world.job("moe")
    event = ev.NumbersSeen(job.uid, job.generation, kind, first, last, f"the loss of step {last} is odd", world.now_ns)
    reply = world.turn(event)[0]
    assert reply is None or isinstance(reply, Refusal)
    return reply


def runs_again(world: World, generation: int) -> None:
    world.run_until(lambda: world.job("moe").generation == generation and world.job("moe").state is JobState.RUNNING)


def test_a_loss_that_is_no_number_goes_back_before_it_and_leaves_its_batches_out() -> None:
    world = saved(20, 40, 60)
    processes = [process for _, process in (world.process("moe", rank) for rank in range(4))]
    assert off(world, 39, 41) is None
    runs_again(world, 2)
    job = world.job("moe")
    assert job.restore_step == 20
    assert [process for _, process in (world.process("moe", rank) for rank in range(4))] == processes
    assert {c.step for c in job.checkpoints.values() if c.state is CheckpointState.POISONED} == {40, 60}
    assert job.numbers.skips == (Skip(39, 41),)
    assert [charge.blame for charge in job.restarts] == [Blame.USER]
    assert any("ROLLBACK" in line for line in world.lines)
    world.checkpoint("moe", 50)
    assert {c.step for c in job.checkpoints.values() if c.restorable} | {50} == {
        c.step for c in world.job("moe").checkpoints.values() if c.restorable
    }, "a later generation is free of it"


def test_what_is_saved_late_by_the_old_generation_is_poisoned() -> None:
    world = saved(20)
    world.checkpoint("moe", 40, [0, 1])
    state, job = world.state().fork(), world.job("moe")
    kind = Reason.LOSS_NOT_FINITE
    apply(state, r.NumbersSuspected(job.uid, 1, kind, 39, 41, "odd", Blame.USER, skip=Skip(39, 41)), world.now_ns)
    assert state.jobs[job.uid].restore_limit == 38
    apply(state, r.CheckpointCommitted(job.uid, f"{job.uid}/g1/step-40", 40), world.now_ns)
    assert {c.step: c.state for c in state.jobs[job.uid].checkpoints.values()}[40] is CheckpointState.POISONED


def test_a_device_that_was_ill_is_to_blame_and_nothing_is_left_out() -> None:
    world = saved(20)
    node, _ = world.process("moe", 1)
    world.set_fault(node.name, 0, "31")
    if world.job("moe").incident is not None:
        runs_again(world, world.job("moe").generation + 1)
    assert off(world, world.job("moe").restore_step + 1, world.job("moe").restore_step + 2) is None
    assert world.job("moe").numbers.blame is Blame.INFRASTRUCTURE
    assert world.job("moe").numbers.skips == ()


def test_a_spike_is_noted_once_unless_a_rule_asks_for_more() -> None:
    world = saved(20)
    for _ in range(2):
        assert off(world, 25, 29, Reason.LOSS_SPIKE) is None
    assert world.job("moe").state is JobState.RUNNING
    assert sum("NumbersSuspected" in line for line in world.lines) == 1
    rule = JobRule(Match(reasons=("lossSpike",)), RuleAction.FAIL, reason="diverged")
    world = saved(20, restart_policy=RestartPolicy(job_rules=(rule,)))
    assert off(world, 25, 29, Reason.LOSS_SPIKE) is None
    world.run_until(lambda: world.job("moe").terminal)
    assert "diverged (jobRules[0])" in world.job("moe").end_reason


def test_batches_are_left_out_so_often_and_then_the_job_fails_with_the_reason() -> None:
    generous = RestartPolicy(user=Budget(100, 3_600_000))
    world = saved(20, restart_policy=generous)
    for time in range(MOST_SKIPS):
        assert off(world, 25 + time, 25 + time) is None
        runs_again(world, 2 + time)
    assert off(world, 60, 60) is None
    world.run_until(lambda: world.job("moe").terminal)
    assert "batches were left out 5 times already" in world.job("moe").end_reason


def test_what_makes_no_sense_is_refused() -> None:
    world = saved(20)
    bad = off(world, 0, 5)
    assert bad is not None
    assert bad.reason == "BAD_NUMBERS"
    job = world.job("moe")
    old = ev.NumbersSeen(job.uid, 7, Reason.LOSS_NOT_FINITE, 1, 2, "odd", world.now_ns)
    stale = world.turn(old)[0]
    assert isinstance(stale, Refusal)
    assert stale.reason == "OLD_GENERATION"
    strange = off(world, 1, 2, Reason.EXITED)
    assert strange is not None
