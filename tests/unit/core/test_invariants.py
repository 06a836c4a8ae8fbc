"""The oracle itself: what the checks between two states must see, and what they must not take for a violation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.core.checkpoints import Checkpoint
from controlplane.core.fleet import Fleet
from controlplane.core.invariants import check_step
from controlplane.core.jobs import Job
from controlplane.core.state import State
from controlplane.core.vocabulary import CheckpointState, NodeLiveness, RankState
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
