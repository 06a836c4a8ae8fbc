"""Which replicas leave and come back: by data-parallel replica, and by the sets of them that share experts."""

from __future__ import annotations

import numpy as np
import pytest

from agents.rank.assignment import Degrees
from controlplane.core.fleet import Fleet
from controlplane.core.jobs import NONE, Job
from controlplane.core.placement.gang import Blocked
from controlplane.core.recovery.elastic import Shrink, grow, in_replicas, replica_of, replicas, set_of, shrink
from controlplane.core.spec import Elastic, Parallel
from tests.support.fleets import fleet, running, spoil
from tests.support.world import spec

DEGREES = Parallel(tp=2, cp=1, pp=2, dp=4, ep=2)


def one_per_node(site: Fleet, least: int = 1, degrees: Parallel = DEGREES, nodes: int = 16) -> Job:
    """A job with one rank on each of its nodes."""
    return running(
        spec("moe", nodes, accelerators_per_rank=2, parallel=degrees, elastic=Elastic(least)),
        [(node, (0, 1)) for node in range(nodes)],
        site,
    )


def leave(job: Job, site: Fleet, *gone: int) -> None:
    """These replicas have left."""
    ranks = in_replicas(job.spec, gone)
    site.acc_owner[job.rank_node[ranks][:, None], job.rank_acc[ranks]] = -1
    job.rank_node = np.where(ranks, NONE, job.rank_node).astype(np.int32)


def outcome(job: Job, site: Fleet, *homeless: int) -> Shrink:
    plan = shrink(job, site, np.array(homeless), frozenset(job.rank_node[list(homeless)].tolist()))
    assert isinstance(plan, Shrink), plan
    return plan


def test_coordinates_are_those_of_the_ranks_themselves() -> None:
    theirs = Degrees(tp=2, cp=1, dp=4, pp=2, ep=2)
    job = spec("moe", 16, parallel=DEGREES)
    assert replica_of(job).tolist() == [theirs.coordinates(rank).dp for rank in range(16)]
    assert set_of(job).tolist() == [theirs.coordinates(rank).edp for rank in range(16)]
    assert [DEGREES.state_of(rank) for rank in range(16)] == [
        (at.tp, at.cp, at.pp, at.ep) for at in map(theirs.coordinates, range(16))
    ]


def test_one_rank_costs_the_set_that_shares_its_experts() -> None:
    site = fleet(16)
    job = one_per_node(site)
    plan = outcome(job, site, 0)
    assert (plan.dropped, plan.moved) == ((0, 1), ())
    assert np.flatnonzero(in_replicas(job.spec, plan.dropped)).tolist() == [0, 1, 2, 3, 8, 9, 10, 11]


def test_without_experts_one_replica_goes() -> None:
    site = fleet(16)
    job = one_per_node(site, degrees=Parallel(tp=2, pp=2, dp=4))
    assert outcome(job, site, 0).dropped == (0,)


def test_what_one_set_leaves_makes_the_others_whole() -> None:
    site = fleet(16)
    job = one_per_node(site, degrees=Parallel(tp=2, pp=2, dp=4))
    plan = outcome(job, site, 0, 2, 4)
    assert len(plan.dropped) == 1
    assert len(plan.moved) == 2
    assert plan.moves is not None
    left = {int(job.rank_node[rank]) for rank in np.flatnonzero(in_replicas(job.spec, plan.dropped))}
    assert set(plan.moves.nodes) <= left - {0, 2, 4}, "their ranks move to good nodes of the one that leaves"


def test_the_set_that_misses_most_goes() -> None:
    site = fleet(16)
    job = one_per_node(site, degrees=Parallel(tp=2, pp=2, dp=4))
    assert outcome(job, site, 0, 4, 5).dropped == (2,)


def test_places_that_take_no_work_are_no_room() -> None:
    site = fleet(16)
    job = one_per_node(site, degrees=Parallel(tp=2, pp=2, dp=4))
    for node in (3, 10, 11):
        spoil(site, node, "cordoned")
    assert outcome(job, site, 0, 2).dropped == (0,), "what replica 1 would leave is cordoned"
    for node in (1, 8, 9):
        spoil(site, node, "cordoned")
    assert outcome(job, site, 0, 2).dropped == (0, 1)


@pytest.mark.parametrize(("least", "works"), [(1, True), (2, True), (3, False), (4, False), (0, False)])
def test_no_fewer_than_the_job_allows(least: int, works: bool) -> None:
    site = fleet(16)
    job = one_per_node(site, least)
    plan = shrink(job, site, np.array([0]), frozenset({0}))
    assert isinstance(plan, Shrink) is works
    if isinstance(plan, Blocked):
        assert ("2 share one copy of the experts" in plan.reason) or least == 0


def test_all_at_once_leaves_nothing_to_shrink_to() -> None:
    site = fleet(16)
    job = one_per_node(site)
    site.session[:] = False
    assert isinstance(shrink(job, site, np.arange(16), frozenset(range(16))), Blocked)


def test_a_job_that_is_small_shrinks_further() -> None:
    site = fleet(16)
    job = one_per_node(site, degrees=Parallel(tp=2, pp=2, dp=4))
    leave(job, site, 1)
    assert replicas(job) == 3
    site.session[[2, 3, 10, 11]] = False
    assert outcome(job, site, 0).dropped == (0,)


def test_whole_sets_come_back_as_far_as_there_is_room() -> None:
    site = fleet(16)
    job = one_per_node(site)
    leave(job, site, 0, 1)
    plan = grow(job, site)
    assert plan is not None
    assert (plan.replicas, plan.ranks) == ((0, 1), (0, 1, 2, 3, 8, 9, 10, 11))
    assert sorted(plan.moves.nodes) == [0, 1, 2, 3, 8, 9, 10, 11]
    spoil(site, 0, "DEAD")
    assert grow(job, site) is None, "seven places for a set of eight"


def test_one_replica_of_two_comes_back() -> None:
    site = fleet(16)
    job = one_per_node(site, degrees=Parallel(tp=2, pp=2, dp=4))
    leave(job, site, 1, 3)
    for node in (2, 3, 6):
        spoil(site, node, "DEAD")
    plan = grow(job, site)
    assert plan is not None
    assert plan.replicas == (1,)


def test_a_whole_job_has_nothing_to_grow() -> None:
    site = fleet(17)
    assert grow(one_per_node(site), site) is None
