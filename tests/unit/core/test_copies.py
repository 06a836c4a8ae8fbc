"""Memory copies lie where they do not share their original's fate (S8)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.core.fleet import DOMAIN_KINDS, NO_DOMAIN
from controlplane.core.recovery.copies import (
    MAX_HELD,
    NOBODY,
    CopyPlan,
    Shared,
    Sites,
    place_copies,
    same_state,
    shared_fate,
    sites_of,
    units_of,
    violations,
)
from controlplane.core.spec import Parallel

RACK, SUPERPOD = DOMAIN_KINDS.index("rack"), DOMAIN_KINDS.index("superpod")


def site(nodes: int, per_node: int, parallel: Parallel, racks: int, superpods: int = 0) -> Sites:
    rank_node = np.repeat(np.arange(nodes, dtype=np.int32), per_node)
    domains = np.full((nodes, len(DOMAIN_KINDS)), NO_DOMAIN, dtype=np.int32)
    domains[:, RACK] = np.arange(nodes) * racks // nodes
    if superpods:
        domains[:, SUPERPOD] = np.arange(nodes) * superpods // nodes
    return sites_of(rank_node, parallel, domains)


def test_units_are_the_replicas_that_share_experts() -> None:
    unit, stage = units_of(16, Parallel(tp=2, pp=2, dp=4, ep=2))
    assert unit.tolist() == [0, 0, 0, 0, 1, 1, 1, 1] * 2
    assert stage.tolist() == [0] * 8 + [1] * 8


def test_ranks_of_the_same_experts_and_stage_hold_the_same_state() -> None:
    assert same_state(8, Parallel(dp=4, ep=2, tp=2)).tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert len(set(same_state(16, Parallel(tp=2, pp=2, dp=4, ep=2)).tolist())) == 8


@pytest.mark.parametrize(
    ("nodes", "per_node", "parallel", "racks", "superpods"),
    [
        (6250, 8, Parallel(tp=8, dp=6250), 390, 13),
        (6200, 8, Parallel(tp=8, pp=10, dp=620, ep=4), 388, 12),
        (64, 8, Parallel(tp=8, pp=4, dp=16), 8, 0),
        (64, 8, Parallel(tp=4, pp=8, dp=16, ep=8), 16, 4),
        (8, 1, Parallel(dp=8), 4, 2),
    ],
)
def test_everything_is_fully_protected_where_the_site_allows_it(
    nodes: int, per_node: int, parallel: Parallel, racks: int, superpods: int
) -> None:
    sites = site(nodes, per_node, parallel, racks, superpods)
    plan = place_copies(sites)
    assert plan.weaker == 0
    assert violations(sites, plan) == []


@pytest.mark.parametrize(
    ("nodes", "parallel", "racks", "words"),
    [
        (4, Parallel(dp=4), 1, "weaker: same rack"),
        (4, Parallel(pp=4, dp=1), 4, "weaker: same unit"),
        (2, Parallel(pp=2, dp=1), 1, "weaker: same rack, unit"),
    ],
)
def test_the_best_remaining_place_is_shown_as_weaker(nodes: int, parallel: Parallel, racks: int, words: str) -> None:
    sites = site(nodes, 1, parallel, racks)
    plan = place_copies(sites)
    assert {Shared(int(bits)).words for bits in plan.shared} == {words}
    assert violations(sites, plan) == []


def test_one_node_alone_has_nobody() -> None:
    plan = place_copies(site(1, 8, Parallel(tp=8, dp=1), 1))
    assert plan.holder.tolist() == [NOBODY]
    assert Shared(int(plan.shared[0])).words == "weaker: same node"


def test_a_swap_moves_only_what_it_touches() -> None:
    nodes = 512
    table = np.repeat(np.arange(nodes, dtype=np.int32), 8)
    domains = np.full((nodes + 1, len(DOMAIN_KINDS)), NO_DOMAIN, dtype=np.int32)
    domains[:, RACK] = np.append(np.arange(nodes) // 16, 40)
    parallel = Parallel(tp=8, pp=8, dp=64)
    before = place_copies(sites_of(table, parallel, domains))
    table[table == 100] = nodes  # a spare elsewhere takes over
    after = place_copies(sites_of(table, parallel, domains))
    moved = {int(old) for old, was, now in zip(before.node, before.holder, after.holder, strict=True) if was != now}
    assert int(before.node[np.flatnonzero(before.holder == 100)[0]]) in moved
    assert len(moved) <= 2
    assert after.weaker == 0


def test_a_hidden_weakness_is_found() -> None:
    sites = site(8, 1, Parallel(dp=8), 2)
    plan = place_copies(sites)
    bad = plan.holder.copy()
    bad[0] = 1
    found = violations(sites, CopyPlan(plan.node, bad, plan.shared))
    assert found
    assert found[0] == "S8: copies of node 0 on node 1 are weaker: same rack, not shown"
    assert violations(sites, CopyPlan(plan.node, np.full(8, 3, np.int32), np.full(8, 63, np.uint8)))


layouts = st.sampled_from(
    [
        Parallel(dp=8),
        Parallel(dp=24, ep=2),
        Parallel(tp=2, dp=12),
        Parallel(tp=2, pp=3, dp=8),
        Parallel(pp=4, dp=6, ep=3),
    ]
)


@settings(max_examples=60, deadline=None)
@given(layouts, st.integers(1, 4), st.data())
def test_what_is_said_is_true_on_any_site(parallel: Parallel, per_node: int, data: st.DataObject) -> None:
    ranks = parallel.tp * parallel.pp * parallel.cp * parallel.dp
    nodes = -(-ranks // per_node)
    rank_node = (np.arange(ranks) // per_node).astype(np.int32)
    numbers = st.lists(st.integers(-1, 3), min_size=nodes, max_size=nodes)
    domains = np.full((nodes, len(DOMAIN_KINDS)), NO_DOMAIN, dtype=np.int32)
    for kind in (RACK, SUPERPOD):
        domains[:, kind] = data.draw(numbers)
    sites = sites_of(rank_node, parallel, domains)
    plan = place_copies(sites)
    assert violations(sites, plan) == []
    if nodes > 1:
        at = np.searchsorted(np.sort(sites.node), plan.holder)
        back = np.argsort(sites.node)[at]
        assert (plan.holder != sites.node).all()
        assert np.array_equal(shared_fate(sites, np.arange(nodes), back), plan.shared)
        assert np.bincount(plan.holder).max() <= MAX_HELD
