"""Runs of numbers against the plain sets that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.core.ranges import Ranges, cover, expand, runs, size, within

numbers = st.lists(st.integers(0, 60), max_size=40)


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ([], ()),
        ([7], ((7, 1),)),
        ([3, 4, 5, 9, 10], ((3, 3), (9, 2))),
        ([5, 4, 4], ((5, 1), (4, 1), (4, 1))),
    ],
)
def test_runs(sequence: list[int], expected: Ranges) -> None:
    assert runs(sequence) == expected
    assert size(expected) == len(sequence)


@settings(max_examples=60, derandomize=True, database=None)
@given(numbers)
def test_expanding_gives_the_sequence_back(sequence: list[int]) -> None:
    assert expand(runs(sequence)).tolist() == sequence
    assert runs(np.array(sequence, dtype=np.int32)) == runs(iter(sequence))


@settings(max_examples=60, derandomize=True, database=None)
@given(numbers, st.lists(st.tuples(st.integers(-5, 70), st.integers(0, 20)), max_size=5))
def test_within_is_membership(column: list[int], ranges: list[tuple[int, int]]) -> None:
    ascending = np.unique(np.array(column, dtype=np.int32))
    wanted = {n for first, count in ranges for n in range(first, first + count)}
    assert within(ascending, tuple(ranges)).tolist() == [int(n) in wanted for n in ascending]


def test_a_claim_to_be_huge_costs_nothing() -> None:
    assert within(np.array([5, 2**31 - 1], dtype=np.int32), ((0, 2**40),)).all()


@settings(max_examples=60, derandomize=True, database=None)
@given(numbers, st.sets(st.integers(0, 60)))
def test_a_cover_holds_what_was_chosen_and_no_other_of_the_column(column: list[int], wanted: set[int]) -> None:
    ascending = np.unique(np.array(column, dtype=np.int64))
    chosen = np.isin(ascending, list(wanted))
    covered = cover(ascending, chosen)
    assert within(ascending, covered).tolist() == chosen.tolist()
    assert len(covered) <= max(1, int(np.count_nonzero(~chosen)) + 1)
