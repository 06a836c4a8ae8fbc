"""The number of spares against published tables, and what it is measured from."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.core.placement.spares import (
    NO_WEAR,
    WEAR_DAYS,
    SparePlan,
    binomial_quantile,
    failures_per_node_day,
    refill_s,
    shares,
    spares_for,
    wanted,
    with_stock,
    with_time,
)
from controlplane.core.units import NS_PER_DAY, NS_PER_S

PLAN = SparePlan()


@pytest.mark.parametrize(("machines", "spares"), [(128, 2), (256, 2), (512, 3), (1024, 4)])
def test_byterobust(machines: int, spares: int) -> None:
    """SOSP'25: P99 spares 2/2/3/4, p = 0.0012 per machine-day, one day to refill."""
    assert binomial_quantile(machines, 0.0012, 0.99) == spares


@pytest.mark.parametrize(
    ("hours", "spares"), [(0.5, (2, 3, 4)), (2, (4, 6, 8)), (24, (24, 36, 56))], ids=["30 min", "2 h", "24 h"]
)
def test_table_of_the_reference(hours: float, spares: tuple[int, ...]) -> None:
    """6,250 nodes at r 2.3, 3.8, 6.5 per 1,000 node-days."""
    assert tuple(spares_for(6250, r / 1000, 3600 * hours, 0.99) for r in (2.3, 3.8, 6.5)) == spares


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.floats(0.001, 0.6))
def test_it_is_the_binomial_quantile(nodes: int, chance: float) -> None:
    spares = binomial_quantile(nodes, chance, 0.99)
    terms = [math.comb(nodes, k) * chance**k * (1 - chance) ** (nodes - k) for k in range(nodes + 1)]
    assert sum(terms[: spares + 1]) >= 0.99 - 1e-12
    assert spares == 0 or sum(terms[:spares]) < 0.99 + 1e-12


@pytest.mark.parametrize(("nodes", "chance", "spares"), [(0, 0.5, 0), (10, 0.0, 0), (10, 1.0, 10), (100_000, 1e-9, 0)])
def test_edges(nodes: int, chance: float, spares: int) -> None:
    assert binomial_quantile(nodes, chance, 0.99) == spares


def test_the_rate_moves_from_the_prior_to_what_was_measured() -> None:
    assert failures_per_node_day(NO_WEAR, PLAN) == pytest.approx(0.0038)
    wear = NO_WEAR
    for day in range(10):
        wear = with_time(wear, day * NS_PER_DAY + 1, 1000 * NS_PER_DAY, failures=10)
    assert failures_per_node_day(wear, PLAN) == pytest.approx((7.6 + 100) / (2000 + 10_000))


def test_old_days_are_forgotten() -> None:
    wear = NO_WEAR
    for day in range(100):
        wear = with_time(wear, day * NS_PER_DAY, NS_PER_DAY, failures=1)
    assert len(wear.days) == WEAR_DAYS
    assert wear.days[-1].day == 99


def test_the_refill_time_is_measured_from_shortage_to_enough() -> None:
    wear = NO_WEAR
    for i in range(40):
        begin = (i + 1) * 10_000 * NS_PER_S
        wear = with_stock(wear, short=True, at_ns=begin)
        wear = with_stock(wear, short=True, at_ns=begin + 1)
        wear = with_stock(wear, short=False, at_ns=begin + 3_600 * NS_PER_S)
    assert wear.refills_ns == (3_600 * NS_PER_S,) * 40
    assert refill_s(NO_WEAR, PLAN) == 86_400
    assert refill_s(wear, PLAN) == 3_600
    assert refill_s(wear, SparePlan(least_refill_s=7_200)) == 7_200


def test_domains_are_counted_each_for_itself() -> None:
    two = wanted([3125, 3125], NO_WEAR, PLAN)
    one = wanted([6250], NO_WEAR, PLAN)
    assert (one.total, two.by_domain) == (36, (21, 21))
    assert "P99" in two.reason
    assert "2 failure domains" in two.reason
    assert "3.8 per 1,000 node-days" in one.reason


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.lists(st.integers(0, 500), max_size=8))
def test_the_pool_is_dealt_out_whole(total: int, sizes: list[int]) -> None:
    dealt = shares(total, sizes)
    assert sum(dealt) == (total if sum(sizes) else 0)
    assert all(abs(got - total * size / sum(sizes)) < 1 for got, size in zip(dealt, sizes, strict=True) if sum(sizes))
