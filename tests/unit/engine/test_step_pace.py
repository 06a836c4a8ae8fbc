"""What is learned of a job's steps, and of where its ranks stand."""

from __future__ import annotations

import numpy as np

from controlplane.core.health.standstill import Calls, Stacks
from controlplane.core.softstate import StepTimes
from controlplane.core.units import ms, seconds
from controlplane.engine.soft import SoftColumns, StepColumns
from controlplane.engine.standstill import ASKED, BLOCK, BLOCKS, StackAnswers, StepPace

START = seconds(1_000)


def told(steps: list[tuple[int, float]]) -> StepPace:
    pace = StepPace()
    for step, at_s in steps:
        pace.told(step, START + seconds(at_s))
    return pace


def test_median_spread_and_the_longest_with_a_checkpoint() -> None:
    assert told([(1, 0.0)]).times() == StepTimes()
    steps = [(step, float(step)) for step in range(1, 10)] + [(10, 14.0), (11, 15.0)]
    assert told(steps).times() == StepTimes(10, seconds(1), 0, seconds(5))


def test_several_steps_in_one_telling_share_its_time() -> None:
    assert told([(10, 0.0), (20, 1.0), (30, 2.2)]).times() == StepTimes(20, ms(110), ms(10), ms(1_200))


def test_the_way_to_the_first_step_of_a_generation_is_no_step() -> None:
    pace = told([(1, 0.0), (2, 1.0), (3, 2.0)])
    pace.begun_anew()
    pace.told(2, START + seconds(90))
    pace.told(3, START + seconds(91))
    assert pace.times().longest_ns == seconds(1)


def test_an_old_step_that_comes_late_changes_nothing() -> None:
    pace = told([(5, 0.0), (6, 1.0), (4, 1.5), (6, 1.6), (7, 2.0)])
    assert pace.times() == StepTimes(2, seconds(1), 0, seconds(1))


def test_what_was_long_ago_is_forgotten() -> None:
    pace, at_s = StepPace(), 0.0
    for step in range(1, (BLOCKS + 3) * BLOCK):
        at_s += 60.0 if step == 5 else 1.0
        pace.told(step, START + seconds(at_s))
        if step == 3 * BLOCK:
            assert pace.times().longest_ns == seconds(60)
    assert pace.times().longest_ns == seconds(1)


def test_columns_learn_from_the_newest_step_of_all_ranks() -> None:
    columns = SoftColumns(START)
    for step in range(1, 30):
        for rank in (0, 1):  # the other one tells of the same step a little later
            row = (rank, rank, step, START + seconds(step) + ms(20 * rank), 0.0, 1.0)
            columns.steps("j", StepColumns(*(np.array([value]) for value in row)))
    assert columns.step_times("j") == StepTimes(28, seconds(1), 0, seconds(1))
    columns.rewind("j", 3)
    columns.forget("j")
    assert columns.step_times("j") == StepTimes()


def test_answers_are_kept_by_order_and_only_the_newest_orders() -> None:
    answers = StackAnswers()

    def of(rank: int) -> Stacks:
        flag = np.zeros(1, dtype=np.bool_)
        return Stacks(np.array([rank]), np.zeros(1, dtype=np.int64), flag, flag, flag, ("a.py:f",), Calls.none())

    for number in range(ASKED + 1):
        answers.add(f"e{number}", "n1", of(1))
        answers.add(f"e{number}", "n0", of(0))
    assert answers.of("e1").rank.tolist() == [0, 1]
    assert len(answers.of("e0").rank) == 0
    answers.add("e5", "n1", of(7))
    assert answers.of("e5").rank.tolist() == [0, 7]
