"""One pool of spares: how it is dealt out, who may take what, and that it is refilled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from controlplane.core.draft import Policy
from controlplane.core.fleet import LENT, Fleet
from controlplane.core.jobs import Job
from controlplane.core.placement.gang import Blocked, replace_ranks
from controlplane.core.placement.pool import lend, share_of
from controlplane.core.placement.spares import NO_WEAR, SparePlan, with_time
from controlplane.core.spec import AUTO, SparePolicy
from controlplane.core.units import NS_PER_DAY, seconds
from controlplane.core.vocabulary import JobState, RankState
from tests.support.fleets import fleet, running
from tests.support.world import World, spec

AUTOMATIC = SparePolicy(AUTO)
PLAN = SparePlan()


def two_jobs(priorities: tuple[int, int]) -> tuple[Job, Job, Fleet]:
    """Jobs 3 and 7 on the first nodes of six, one rank on each device; job 7 holds node 5 as a spare, 2 to 4 are taken."""
    site = fleet(6)
    first = running(spec("a", 2, priority=priorities[0]), [(0, (0,)), (0, (1,))], site)
    second = running(spec("b", 2, priority=priorities[1]), [(1, (0,)), (1, (1,))], site, spares=(5,))
    first.serial = 3
    first.uid = "a-3"
    site.acc_owner[0] = 3
    site.acc_owner[2:5] = 9
    return first, second, site


def test_a_spare_of_a_lower_or_equal_priority_is_taken_when_nothing_else_is_free() -> None:
    for priorities, fits in (((0, 0), True), ((5, 0), True), ((0, 5), False)):
        first, second, site = two_jobs(priorities)
        view = lend(site, first, [first, second])
        places = replace_ranks(view, first, (0, 1), frozenset({0}))
        assert isinstance(places, Blocked) is not fits, priorities
        if not isinstance(places, Blocked):
            assert places.nodes == (5, 5)
        assert site.reserved[5] == second.serial, "lending is a view, nothing has changed hands"


def test_free_nodes_come_before_what_others_hold() -> None:
    first, second, site = two_jobs((5, 0))
    site.acc_owner[4] = -1
    view = lend(site, first, [first, second])
    assert view.reserved[5] == LENT
    places = replace_ranks(view, first, (0, 1), frozenset({0}))
    assert not isinstance(places, Blocked)
    assert places.nodes == (4, 4)


def test_the_share_of_a_job_follows_its_size_and_the_failures_of_the_site() -> None:
    site = fleet(24, width=1)
    jobs = []
    for serial, (begin, end) in ((3, (0, 6)), (7, (6, 18))):
        job = running(spec(f"j{serial}", end - begin, spares=AUTOMATIC), [(n, (0,)) for n in range(begin, end)], site)
        job.serial, job.uid = serial, f"j-{serial}"
        jobs.append(job)
    assert [share_of(job, jobs, site, NO_WEAR, PLAN).nodes for job in jobs] == [0, 1]
    worn = with_time(NO_WEAR, 1, 100 * NS_PER_DAY, failures=400)
    dealt = [share_of(job, jobs, site, worn, PLAN) for job in jobs]
    assert dealt[1].nodes >= 2 * dealt[0].nodes > 0
    assert "18 nodes" in dealt[0].reason
    fixed = replace(jobs[0], spec=replace(jobs[0].spec, spares=SparePolicy(2)))
    assert share_of(fixed, jobs, site, worn, PLAN).nodes == 2


def test_failures_of_nodes_are_remembered_and_refills_measured() -> None:
    world = World(6, accelerators=2, racks=2)
    world.submit(spec("moe", 4, spares=SparePolicy(1)))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    world.run(2)
    assert sum(day.failures for day in world.state().wear.days) == 0
    world.destroy(world.process("moe", 0)[0].name)
    world.run(5)
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    world.run(5)
    wear = world.state().wear
    assert sum(day.failures for day in wear.days) == 1
    assert sum(day.node_ns for day in wear.days) >= 5 * seconds(7)
    assert wear.short_since_ns == 0
    assert len(wear.refills_ns) >= 1
    assert len(world.job("moe").spare_nodes) == 1


def standing_by(world: World) -> list[int]:
    """Parked processes by node: of those with ranks, then of spare ones."""
    job = world.job("moe")
    count = np.bincount(job.hosts.node[job.hosts.state == RankState.PARKED], minlength=world.state().fleet.size)
    return [int(count[node]) for node in (*sorted(set(job.rank_node.tolist())), *job.spare_nodes)]


def test_what_stands_by_is_as_much_again_after_each_of_several_recoveries() -> None:
    world = World(8, accelerators=2, racks=2)
    world.submit(spec("moe", 4, spares=SparePolicy(warm_nodes=1, parked_per_node=1)))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING and standing_by(world) == [1, 1, 2])
    for generation, rank in enumerate((0, 3, 3, 1, 2, 0), start=2):
        if rank == 2:
            world.destroy(world.process("moe", rank)[0].name)
        else:
            world.kill_rank("moe", rank)
        world.run_until(lambda generation=generation: world.job("moe").generation >= generation)
        world.run_until(lambda: world.job("moe").state is JobState.RUNNING and standing_by(world) == [1, 1, 2])


def test_a_job_that_leaves_it_to_the_controller_gets_more_as_failures_come() -> None:
    plan = SparePlan(prior_per_node_day=0.4, prior_node_days=1.0)
    world = World(8, accelerators=2, racks=2, policy=Policy(spares=plan))
    world.submit(spec("moe", 4, spares=AUTOMATIC))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    world.run(3)
    job = world.job("moe")
    assert job.wanted_spares == len(job.spare_nodes) == 2
    assert "P99" in job.spares_reason
    assert all(world.state().fleet.reserved[node] == job.serial for node in job.spare_nodes)
