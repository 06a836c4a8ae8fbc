"""Beats and steps that come as columns mean the same as those that come one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from controlplane.engine.soft import SoftColumns, StepColumns, StepRow

ROW = st.tuples(
    st.integers(0, 7),
    st.integers(0, 3),
    st.integers(1, 20),
    st.integers(1, 1_000),
    st.sampled_from([0.5, float("nan")]),
)


@given(st.lists(st.lists(ROW, min_size=1, max_size=8, unique_by=lambda row: row[0]), max_size=5))
def test_columns_of_steps_say_what_their_rows_say(batches: list[list[tuple[int, int, int, int, float]]]) -> None:
    one_by_one, together = SoftColumns(0), SoftColumns(0)
    for batch in batches:
        for rank, node, step, at_ns, loss in batch:
            one_by_one.node_steps("j", node, [StepRow(rank, step, at_ns, loss, 0.25)])
        ranks, nodes, steps, at, losses = (np.array(column) for column in zip(*batch, strict=True))
        together.steps("j", StepColumns(ranks, nodes, steps, at, losses, np.full(len(batch), 0.25)))
    left, right = one_by_one.view("j"), together.view("j")
    assert (left.step, left.at_ns, left.by_rank, left.by_node_ns) == (
        right.step, right.at_ns, right.by_rank, right.by_node_ns,
    )  # fmt: skip
    assert np.array_equal([left.loss], [right.loss], equal_nan=True)


def test_a_late_column_takes_no_lease_back() -> None:
    soft = SoftColumns(0)
    soft.beat(1, 900)
    soft.beats(np.array([0, 1, 200]), np.array([500, 500, 500]))
    beats = soft.last_beat_ns(201)
    assert (beats[0], beats[1], beats[200]) == (500, 900, 500)


def test_a_generation_that_begins_again_has_the_step_of_its_first_row() -> None:
    soft = SoftColumns(0)
    soft.node_steps("j", 0, [StepRow(0, 30, 1, 1.0, 0.1)])
    soft.rewind("j", 20)
    soft.steps("j", StepColumns(*(np.array([value]) for value in (0, 0, 21, 2, 1.0, 0.1))))
    assert soft.progress("j") == (21, 2)
