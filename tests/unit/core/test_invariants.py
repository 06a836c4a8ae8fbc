"""The oracle itself: what the checks between two states must see, and what they must not take for a violation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.core.checkpoints import Checkpoint
from controlplane.core.columns import put
from controlplane.core.fleet import FREE, Fleet
from controlplane.core.invariants import check, check_step, check_turn
from controlplane.core.jobs import NONE, Job
from controlplane.core.state import State
from controlplane.core.vocabulary import Bucket, CheckpointState, JobState, NodeLiveness, NodeService, RankState
from tests.support.fleets import fleet, running
from tests.support.world import spec

COMMITTED, VERIFIED = CheckpointState.COMMITTED, CheckpointState.VERIFIED


def state_of(site: Fleet, job: Job) -> State:
    return State(fleet=site, jobs={job.uid: job})


@pytest.mark.parametrize(
    ("before", "after", "fine"),
    [
        ((20, VERIFIED), (20, VERIFIED), True),
        ((20, VERIFIED), None, False),
        ((20, VERIFIED), (40, VERIFIED), True),  # committed, read back and cleaned up in one turn
        ((20, VERIFIED), (40, COMMITTED), False),
        ((20, VERIFIED), (10, VERIFIED), False),
        ((20, COMMITTED), (40, COMMITTED), True),
        ((20, COMMITTED), (10, VERIFIED), False),
    ],
)
def test_the_pinned_checkpoint(
    before: tuple[int, CheckpointState], after: tuple[int, CheckpointState] | None, fine: bool
) -> None:
    def with_checkpoint(found: tuple[int, CheckpointState] | None) -> State:
        site = fleet(1)
        job = running(spec(ranks=1), [(0, (0,))], site)
        if found:
            job.checkpoints = {f"c{found[0]}": Checkpoint(f"c{found[0]}", 1, found[0], "/c", found[1])}
        return state_of(site, job)

    violations = check_step(with_checkpoint(before), with_checkpoint(after))
    assert [text[:3] for text in violations] == ([] if fine else ["S10"])


@pytest.mark.parametrize(("generation", "fine"), [(1, True), (0, False)])
def test_only_a_fresh_start_needs_a_node_that_takes_work(generation: int, fine: bool) -> None:
    """A process that held a rank before and has not told of JOINING yet still shows PARKED: it is no fresh start."""
    site = fleet(2)
    site.liveness[0] = NodeLiveness.SUSPECT
    old = running(spec(ranks=1), [(0, (0,))], site)
    hosts = old.hosts
    hosts.state[0] = RankState.PARKED
    hosts.generation[0] = generation
    new = old.clone()
    new.generation = 2
    new.hosts = replace(hosts, generation=hosts.generation + 1)
    assert [text[:2] for text in check_step(state_of(site, old), state_of(site, new))] == ([] if fine else ["S2"])


def test_generations_and_epochs_only_grow() -> None:
    site = fleet(1)
    old = running(spec(ranks=1), [(0, (0,))], site)
    new = old.clone()
    new.generation = 0
    before, after = state_of(site, old), state_of(site, new)
    before.epoch = 2
    assert [text[:2] for text in check_step(before, after)] == ["S4", "S4"]


def planted(site: Fleet, job: Job, how: str) -> None:
    """Break something, as a turn would: columns are replaced."""
    hosts = job.hosts
    match how:
        case "two ranks hold one process":
            job.rank_host = put(job.rank_host, 1, job.rank_host[0])
        case "a rank is bound to nobody":
            job.rank_host = put(job.rank_host, 1, 99)
        case "a process says another rank":
            job.hosts = replace(hosts, rank=put(hosts.rank, [0, 1], [1, 0]))
        case "a process keeps a rank that is not its own":
            job.rank_host = put(job.rank_host, 1, NONE)
        case "a rank stands elsewhere than its process":
            job.rank_node = put(job.rank_node, 1, 1)
        case "two ranks on one device":
            job.rank_acc = put(job.rank_acc, 1, job.rank_acc[0])
        case "a device without its owner":
            site.acc_owner = put(site.acc_owner, (0, 0), FREE)
        case "a drained node that nobody drains":
            site.service = put(site.service, 2, NodeService.OUT_OF_SERVICE)
        case "an incomplete restore point":
            job.checkpoints = {"c": Checkpoint("c", 1, 5, "/c", CheckpointState.WRITING)}
            job.restore_id = "c"
        case "no blocker":
            job.state = JobState.SUSPENDED
        case "a negative bucket":
            job.ledger_ns = {Bucket.PRODUCTIVE: -1}
        case _:
            raise ValueError(how)


PLANTED = (
    "two ranks hold one process", "a rank is bound to nobody", "a process says another rank",
    "a process keeps a rank that is not its own", "a rank stands elsewhere than its process", "two ranks on one device",
    "a device without its owner", "a drained node that nobody drains", "an incomplete restore point", "no blocker",
    "a negative bucket",
)  # fmt: skip


@pytest.mark.parametrize("how", PLANTED)
def test_both_forms_find_what_a_turn_broke(how: str) -> None:
    site = fleet(3)
    job = running(spec(ranks=2), [(0, (0,)), (0, (1,))], site)
    before = state_of(site, job)
    assert check(before) == check_turn(before, before) == []
    after = before.fork()
    planted(after.own_fleet(), after.own_job(job.uid), how)
    found = check_turn(before, after)
    assert found
    assert set(found) <= {*check(after), *check_step(before, after)}
    assert {*check(after)} - {*found} <= {"S12: the devices that are booked are not those that there are"}


def test_what_a_turn_did_not_touch_is_not_looked_at_again() -> None:
    site = fleet(3)
    job = running(spec(ranks=2), [(0, (0,)), (0, (1,))], site)
    planted(site, job, "two ranks hold one process")
    broken = state_of(site, job)
    assert check(broken)
    assert check_turn(broken, broken.fork()) == []
