"""The save interval: Young/Daly from measured values, inside limits, without flapping."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.core.recovery.interval import (
    CHANGE,
    SaveCosts,
    best_interval_s,
    between_failures_s,
    loss,
    steps_between_saves,
    worth_changing,
)


@pytest.mark.parametrize(
    ("stall_s", "between_s", "low_s", "high_s"),
    [
        (5, 6000, 240, 246),  # reliability.md 6.2 (a'): 145 to 245 s from r 6.5 to 2.3
        (5, 2100, 140, 146),
        (0.05, 3600, 18, 20),
        (5, math.inf, math.inf, math.inf),
        (100, 40, 40, 40),  # saving takes longer than work lasts
    ],
)
def test_against_published_values(stall_s: float, between_s: float, low_s: float, high_s: float) -> None:
    assert low_s <= best_interval_s(stall_s, between_s) <= high_s


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 30), st.floats(600, 1e6), st.floats(0.3, 3))
def test_no_other_interval_loses_noticeably_less(stall_s: float, between_s: float, factor: float) -> None:
    costs = SaveCosts(stall_s, 1.0, between_s)
    best = best_interval_s(stall_s, between_s)
    assert loss(best, costs) <= 1.03 * loss(best * factor, costs)


@pytest.mark.parametrize(
    ("costs", "least", "most", "steps"),
    [
        (SaveCosts(5, 5, 3600), 1, 1000, 37),
        (SaveCosts(5, 5, 3600), 50, 1000, 50),
        (SaveCosts(5, 5, 3600), 1, 20, 20),
        (SaveCosts(5, 5, math.inf), 1, 500, 500),
        (SaveCosts(5, 0, 3600), 1, 500, 500),
        (SaveCosts(0.0, 5, 3600), 1, 500, 1),
    ],
)
def test_limits_of_the_job(costs: SaveCosts, least: int, most: int, steps: int) -> None:
    assert steps_between_saves(costs, least, most) == steps


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_it_does_not_flap(current: int, best: int) -> None:
    if worth_changing(current, best):
        assert max(current, best) >= min(current, best) * CHANGE
        assert not worth_changing(best, best)
    else:
        assert not worth_changing(best, current), "neither way"


def test_failures_of_the_job_itself_outweigh_the_sites_rate() -> None:
    expected_s = 86_400 / (1000 * 0.0038)
    assert between_failures_s(0, 0, 1000, 0.0038) == pytest.approx(expected_s)
    assert between_failures_s(100_000, 0, 1000, 0.0038) > expected_s
    assert between_failures_s(10_000, 9, 1000, 0.0038) == pytest.approx((expected_s + 10_000) / 10)
    assert between_failures_s(1000, 0, 0, 0.0) == math.inf
