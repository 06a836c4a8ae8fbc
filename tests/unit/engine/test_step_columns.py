"""Beats and steps that come as columns: what many ranks say, whatever the order in which it comes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from controlplane.engine.soft import SoftColumns, StepColumns

Row = tuple[int, int, int, int, float]
ROW = st.tuples(
    st.integers(0, 7),
    st.integers(0, 3),
    st.integers(1, 20),
    st.integers(1, 1_000),
    st.sampled_from([0.5, float("nan")]),
)


def columns(rows: list[Row]) -> StepColumns:
    """Rank, node, step, when, loss."""
    ranks, nodes, steps, at, losses = (np.array(column) for column in zip(*rows, strict=True))
    return StepColumns(ranks, nodes, steps, at, losses, np.full(len(rows), 0.25))


@given(st.lists(st.lists(ROW, min_size=1, max_size=8, unique_by=lambda row: row[0]), max_size=5))
def test_many_rows_say_what_they_say_one_by_one(batches: list[list[Row]]) -> None:
    one_by_one, together = SoftColumns(0), SoftColumns(0)
    for batch in batches:
        for row in batch:
            one_by_one.steps("j", columns([row]))
        together.steps("j", columns(batch))
    left, right = one_by_one.view("j"), together.view("j")
    assert (left.step, left.at_ns, left.by_rank, left.by_node_ns) == (
        right.step, right.at_ns, right.by_rank, right.by_node_ns,
    )  # fmt: skip
    assert np.array_equal([left.loss], [right.loss], equal_nan=True)
    newest = {rank: step for batch in batches for rank, _, step, _, _ in batch}
    assert right.by_rank == newest


def test_a_step_that_is_told_again_is_no_progress() -> None:
    soft = SoftColumns(0)
    soft.steps("j", columns([(0, 3, 7, 100, 0.5)]))
    soft.steps("j", columns([(0, 3, 7, 900, 0.5)]))
    assert soft.progress("j") == (7, 100)
    assert soft.node_progress_ns("j", 3) == 100


def test_a_late_column_takes_no_lease_back() -> None:
    soft = SoftColumns(0)
    soft.beat(1, 900)
    soft.beats(np.array([0, 1, 200]), np.array([500, 500, 500]))
    beats = soft.last_beat_ns(201)
    assert (beats[0], beats[1], beats[200]) == (500, 900, 500)


def test_a_generation_that_begins_again_has_the_step_of_its_first_row() -> None:
    soft = SoftColumns(0)
    soft.steps("j", columns([(0, 0, 30, 1, 1.0)]))
    soft.rewind("j", 20)
    soft.steps("j", columns([(0, 0, 21, 2, 1.0)]))
    assert soft.progress("j") == (21, 2)
