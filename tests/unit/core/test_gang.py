"""Placement against brute force on small fleets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.core.fleet import FREE, Fleet
from controlplane.core.placement.gang import Blocked, Placement, place, refill_spares, replace_ranks
from controlplane.core.spec import SparePolicy
from controlplane.core.vocabulary import AcceleratorState, NodeLiveness
from tests.support.fleets import SPOILED, cordon, fleet, running, spoil
from tests.support.world import spec

BROKEN = (AcceleratorState.FAILED, AcceleratorState.SUSPECT, AcceleratorState.RESETTING, AcceleratorState.UNKNOWN)


@st.composite
def sites(draw: st.DrawFn) -> Fleet:
    """Up to 5 nodes of up to 3 devices, some spoiled, owned, reserved or broken."""
    nodes = draw(st.integers(1, 5))
    site = fleet(nodes, width=draw(st.integers(1, 3)), racks=draw(st.integers(1, nodes)))
    for node in range(nodes):
        how = draw(st.sampled_from(["", "", "", *SPOILED]))
        if how:
            spoil(site, node, how)
        site.reserved[node] = draw(st.sampled_from([FREE, FREE, 7, 8]))
        for position in range(site.acc_state.shape[1]):
            site.acc_state[node, position] = draw(st.sampled_from([1, 1, 1, 2, 0, *BROKEN]))
            site.acc_owner[node, position] = draw(st.sampled_from([FREE, FREE, FREE, 8]))
    return site


def room(site: Fleet, per_rank: int, owners: tuple[int, ...]) -> list[int]:
    """Ranks that fit on each node, counted one by one."""
    counts = []
    for node in range(site.size):
        takes_work = site.schedulable()[node] and int(site.reserved[node]) in owners
        free = sum(
            int(site.acc_state[node, k]) in (AcceleratorState.HEALTHY, AcceleratorState.DEGRADED)
            and site.acc_owner[node, k] == FREE
            for k in range(site.acc_state.shape[1])
        )
        counts.append(free // per_rank if takes_work else 0)
    return counts


def check_places(site: Fleet, found: Placement, per_rank: int, owners: tuple[int, ...]) -> None:
    taken: set[tuple[int, int]] = set()
    for node, positions in zip(found.nodes, found.accelerators, strict=True):
        assert site.schedulable()[node], "S2"
        assert int(site.reserved[node]) in owners, "another job's spare"
        assert len(positions) == per_rank
        for position in positions:
            assert (node, position) not in taken, "two ranks on one device"
            taken.add((node, position))
            assert site.acc_owner[node, position] == FREE
            assert site.acc_state[node, position] in (AcceleratorState.HEALTHY, AcceleratorState.DEGRADED)


@given(sites(), st.integers(1, 8), st.integers(1, 3), st.integers(0, 2))
def test_a_gang_fits_exactly_when_there_is_room(site: Fleet, ranks: int, per_rank: int, warm: int) -> None:
    wanted = spec(ranks=ranks, accelerators_per_rank=per_rank, spares=SparePolicy(warm_nodes=warm))
    found = place(site, wanted)
    fits = sum(room(site, per_rank, (FREE,))) >= ranks
    assert isinstance(found, Placement) == fits
    if isinstance(found, Blocked):
        assert "needs" in found.reason
        return
    assert len(found.nodes) == ranks
    check_places(site, found, per_rank, (FREE,))
    assert len(found.spares) <= warm
    assert not {*found.spares} & {*found.nodes}
    most = max(found.nodes.count(node) for node in found.nodes)
    for node in found.spares:
        assert room(site, per_rank, (FREE,))[node] >= most, "a warm spare can take any node's ranks"


@given(sites(), st.integers(1, 8), st.integers(1, 2))
def test_one_rack_is_enough_where_one_rack_suffices(site: Fleet, ranks: int, per_rank: int) -> None:
    found = place(site, spec(ranks=ranks, accelerators_per_rank=per_rank))
    if isinstance(found, Blocked):
        return
    capacity = room(site, per_rank, (FREE,))
    by_rack = [sum(c for c, r in zip(capacity, site.rack, strict=True) if r == rack) for rack in range(len(site.racks))]
    used = {int(site.rack[node]) for node in found.nodes}
    fitting = [c for c in by_rack if c >= ranks]
    if fitting:
        assert len(used) == 1
        assert by_rack[used.pop()] == min(fitting), "the smallest rack that holds it"


@given(sites(), st.integers(1, 4), st.integers(1, 2), st.sets(st.integers(0, 4)))
def test_replacements_fit_exactly_when_there_is_room(site: Fleet, lost: int, per_rank: int, avoided: set[int]) -> None:
    avoid = frozenset(node for node in avoided if node < site.size)
    wanted = spec(ranks=4, accelerators_per_rank=per_rank)
    job = running(replace(wanted, ranks=1), [(0, tuple(range(min(per_rank, site.acc_state.shape[1]))))], site)
    job.spec = wanted
    job.spare_nodes = tuple(np.flatnonzero(site.reserved == 7).tolist())
    found = replace_ranks(site, job, tuple(range(lost)), avoid)
    capacity = [0 if n in avoid else c for n, c in enumerate(room(site, per_rank, (FREE, 7)))]
    assert isinstance(found, Placement) == (sum(capacity) >= lost)
    if isinstance(found, Placement):
        check_places(site, found, per_rank, (FREE, 7))
        assert not {*found.nodes} & avoid
        warm = [n for n in range(site.size) if site.reserved[n] == 7 and capacity[n] >= lost]
        if warm:
            assert {*found.nodes} <= {*warm}, "the own warm spare first"


@pytest.mark.parametrize("how", SPOILED)
def test_never_on_a_node_that_takes_no_work(how: str) -> None:
    site = fleet(2)
    spoil(site, 0, how)
    assert isinstance(place(site, spec(ranks=3)), Blocked)
    found = place(site, spec(ranks=2))
    assert isinstance(found, Placement)
    assert set(found.nodes) == {1}


def test_a_spare_of_another_job_is_not_touched() -> None:
    site = fleet(3)
    job = running(spec(ranks=2), [(0, (0,)), (0, (1,))], site)
    site.reserved[1] = 9
    found = replace_ranks(site, job, (0, 1), frozenset())
    assert isinstance(found, Placement)
    assert set(found.nodes) == {2}
    site.reserved[2] = 9
    blocked = replace_ranks(site, job, (0, 1), frozenset())
    assert isinstance(blocked, Blocked)
    assert "2 accelerators are needed" in blocked.reason


def test_the_blocker_names_numbers() -> None:
    site = fleet(2)
    running(spec(ranks=2), [(0, (0,)), (0, (1,))], site)
    cordon(site, 1)
    found = place(site, spec(ranks=1))
    assert isinstance(found, Blocked)
    assert (
        found.reason
        == "needs 1 accelerator, 0 are free of 4 on the site (1 accelerator or 1 node short, 2 are held by jobs, 1 cordoned: n1)"
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("", (1,)),
        ("cordoned", (2,)),
        ("DEAD", (2,)),
        ("QUARANTINED", (2,)),
        ("failed devices", (2,)),
        ("SUSPECT", (1,)),  # a spare that we merely do not see now is kept
        ("no session", (1,)),
    ],
)
def test_spares_are_kept_while_good_and_refilled(change: str, expected: tuple[int, ...]) -> None:
    site = fleet(3)
    job = running(spec(ranks=2, spares=SparePolicy(1)), [(0, (0,)), (0, (1,))], site, spares=(1,))
    if change:
        spoil(site, 1, change)
    assert refill_spares(site, job) == expected


def test_two_jobs_never_hold_the_same_spare() -> None:
    site = fleet(3)
    first = running(spec("a", ranks=2, spares=SparePolicy(1)), [(0, (0,)), (0, (1,))], site, spares=(2,))
    second = running(spec("b", ranks=2, spares=SparePolicy(1)), [(1, (0,)), (1, (1,))], site)
    second.serial = 8
    assert refill_spares(site, first) == (2,)
    assert refill_spares(site, second) == ()


def test_spares_without_policy_are_given_back() -> None:
    site = fleet(2)
    job = running(spec(ranks=2, spares=SparePolicy(0)), [(0, (0,)), (0, (1,))], site, spares=(1,))
    assert refill_spares(site, job) == ()


def test_a_dead_spare_is_not_counted_twice() -> None:
    site = fleet(4)
    job = running(spec(ranks=2, spares=SparePolicy(2)), [(0, (0,)), (0, (1,))], site, spares=(1, 2))
    site.liveness = np.array([1, NodeLiveness.DEAD, 1, 1], dtype=np.uint8)
    assert refill_spares(site, job) == (2, 3)
