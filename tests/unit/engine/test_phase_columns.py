"""Sums that ranks tell become looks of one step of each, whatever the order and the pace in which they are told."""

from __future__ import annotations

import numpy as np
import pytest

from controlplane.core.health.stragglers import LOOKS, Cause, StragglerPolicy
from controlplane.core.spec import Parallel
from controlplane.engine.phases import LARGEST, PATIENCE, STEPS, TOLD, JobPhases
from controlplane.engine.soft import SoftColumns, StepColumns

POLICY = StragglerPolicy()
USUAL = np.array([1.0, 100_000.0, 30_000.0, 5_000.0, 1_000.0, 2_000.0, 0.0])
"""Of one step: steps, total, waiting, data, collection, checkpoint; and the load."""


def per_rank(ranks: int, slow: dict[int, tuple[int, float]] | None = None) -> np.ndarray:
    """What each rank spends in a step; `slow`: rank -> column and what it adds, taken from its waiting where there is enough."""
    spent = np.tile(USUAL, (ranks, 1))
    for rank, (column, more) in (slow or {}).items():
        if column != 1:
            spent[rank, column] += more
        spent[rank, 2] -= more
    return spent


def run(phases: JobPhases, spent: np.ndarray, steps: int, stride: int = 1) -> None:
    """All ranks tell their sums after every `stride` steps."""
    for step in range(stride, steps * stride + 1, stride):
        phases.tell(np.arange(len(spent)), spent * step)


def test_nothing_is_known_before_there_are_looks_enough() -> None:
    phases = JobPhases()
    run(phases, per_rank(4), POLICY.looks)  # the first row is where the others begin
    assert phases.judge(4, Parallel(dp=4), POLICY) is None
    run(phases, per_rank(4) * 2, POLICY.looks)
    found = phases.judge(4, Parallel(dp=4), POLICY)
    assert found is not None
    assert found.slow == ()
    assert found.known.all()


@pytest.mark.parametrize("stride", [1, 20])
def test_the_slow_one_waits_least_and_is_found_whether_each_step_is_told_or_every_twentieth(stride: int) -> None:
    phases = JobPhases()
    for step in range(1, LOOKS + 2):
        phases.tell(np.arange(4), per_rank(4, {2: (1, 25_000.0)}) * (step * stride))
        phases.judge(4, Parallel(dp=4), POLICY)
    found = phases.judge(4, Parallel(dp=4), POLICY)
    assert found is not None
    assert [(one.rank, one.cause) for one in found.slow] == [(2, Cause.COMPUTE)]
    assert found.slow[0].factor == pytest.approx(87 / 62, abs=0.01)
    assert phases.parts[:2] == pytest.approx((62_000 + 25_000 / 4, 30_000 - 25_000 / 4))


def test_who_is_slow_in_data_is_not_slow_in_compute() -> None:
    phases = JobPhases()
    run(phases, per_rank(4, {1: (3, 28_000.0)}), 8)
    for _ in range(3):
        phases.judge(4, Parallel(dp=4), POLICY)
        run(phases, per_rank(4, {1: (3, 28_000.0)}) * 100, 8)
        phases.judge(4, Parallel(dp=4), POLICY)
    found = phases.judge(4, Parallel(dp=4), POLICY)
    assert found is not None
    assert [(one.rank, one.cause) for one in found.slow] == [(1, Cause.DATA)]


def test_rows_that_come_one_by_one_and_again_make_the_same_looks() -> None:
    together, alone = JobPhases(), JobPhases()
    spent = per_rank(3, {0: (1, 29_000.0)})
    for step in range(1, LOOKS + 2):
        together.tell(np.arange(3), spent * step)
        for rank in (2, 0, 1):
            alone.tell(np.array([rank]), spent[[rank]] * step)
            alone.tell(np.array([rank]), spent[[rank]] * step)
        for phases in (together, alone):
            phases.judge(3, Parallel(dp=3), POLICY)
    left, right = together.judge(3, Parallel(dp=3), POLICY), alone.judge(3, Parallel(dp=3), POLICY)
    assert left is not None
    assert right is not None
    assert left.slow == right.slow != ()


def test_a_rank_that_tells_nothing_any_more_holds_no_look_up_for_long() -> None:
    phases = JobPhases()
    spent = per_rank(3)
    run(phases, spent, 2)
    for step in range(3, 3 + 2 * PATIENCE * POLICY.looks):
        phases.tell(np.arange(2), spent[:2] * step)
        phases.judge(3, Parallel(dp=3), POLICY)
    found = phases.judge(3, Parallel(dp=3), POLICY)
    assert found is not None
    assert found.known.tolist() == [True, True, False]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, 1e300])
def test_what_makes_no_sense_harms_nobody_else(bad: float) -> None:
    phases = JobPhases()
    for step in range(1, LOOKS + 2):
        spent = per_rank(4, {3: (1, 29_000.0)}) * step
        spent[0, 1 + step % (TOLD - 1)] = bad
        phases.tell(np.arange(4), spent)
        phases.judge(4, Parallel(dp=4), POLICY)
    found = phases.judge(4, Parallel(dp=4), POLICY)
    assert found is not None
    assert 3 in {one.rank for one in found.slow}
    assert not {1, 2} & {one.rank for one in found.slow}
    assert np.isfinite(phases.parts).all()
    assert max(phases.parts) <= LARGEST


def test_sums_that_begin_anew_are_no_negative_time() -> None:
    phases = JobPhases()
    run(phases, per_rank(2), 5)
    run(phases, per_rank(2), 3)
    assert min(phases.parts) >= 0
    assert phases.parts[1] == pytest.approx(30_000)


def columns(rows: int, times: np.ndarray | None) -> StepColumns:
    there = np.arange(rows)
    return StepColumns(there, there, there + 1, there + 1, np.zeros(rows), np.ones(rows), times)


def test_a_new_generation_begins_with_an_empty_window_and_old_libraries_tell_none() -> None:
    soft = SoftColumns(0)
    soft.steps("j", columns(2, None))
    assert soft.view("j").parts == ()
    for step in (1, 2):
        soft.steps("j", columns(2, per_rank(2) * step))
    assert soft.view("j").parts[0] == pytest.approx(62_000)
    untold = np.zeros((2, TOLD))
    assert not untold[:, STEPS].any()
    soft.steps("j", columns(2, untold))
    assert soft.view("j").parts != ()
    soft.rewind("j", 0)
    assert soft.view("j").parts == ()
    assert soft.slow_ranks("nobody", 2, Parallel(dp=2), POLICY) is None
