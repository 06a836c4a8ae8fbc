"""Transition tables as data: every allowed step is possible, every other one stops the apply."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from itertools import product
from typing import Any

import pytest

from controlplane.core import records as r
from controlplane.core.apply import apply
from controlplane.core.applying.fleet import set_service
from controlplane.core.checkpoints import Checkpoint
from controlplane.core.fleet import NodeFacts
from controlplane.core.jobs import Job
from controlplane.core.state import State
from controlplane.core.vocabulary import (
    CHECKPOINT_STATES,
    JOB_STATES,
    NODE_LIVENESS,
    NODE_SERVICE,
    TERMINAL,
    CheckpointState,
    IllegalTransition,
    JobState,
    NodeLiveness,
    NodeService,
    Phase,
)
from tests.support.world import spec


def steps(table: Mapping[Any, frozenset[Any]], *, legal: bool) -> list[tuple[Any, Any]]:
    kind: type[Enum] = type(next(iter(table)))
    return [(a, b) for a, b in product(kind, kind) if a is not b and (b in table[a]) is legal]


def state_with(job_state: JobState = JobState.QUEUED, checkpoint: CheckpointState = CheckpointState.WRITING) -> State:
    state = State()
    state.fleet.add(NodeFacts("n0"))
    job = Job("moe", "moe-1", 1, spec(), job_state, 0)
    job.checkpoints = {"c": Checkpoint("c", 1, 10, "/c", checkpoint)}
    state.jobs["moe-1"] = job
    return state.fork()


@pytest.mark.parametrize("table", [JOB_STATES, NODE_LIVENESS, NODE_SERVICE, CHECKPOINT_STATES])
def test_tables_are_complete(table: Mapping[Any, frozenset[Any]]) -> None:
    assert set(table) == set(type(next(iter(table))))
    assert all(a not in following for a, following in table.items())


def test_terminal_states_are_final() -> None:
    assert {state for state, following in JOB_STATES.items() if not following} == TERMINAL


@pytest.mark.parametrize(("before", "after"), steps(JOB_STATES, legal=True))
def test_legal_job_steps(before: JobState, after: JobState) -> None:
    state = state_with(before)
    apply(state, r.JobStateChanged("moe-1", after), 1)
    assert state.jobs["moe-1"].state is after


@pytest.mark.parametrize(("before", "after"), steps(JOB_STATES, legal=False))
def test_illegal_job_steps(before: JobState, after: JobState) -> None:
    with pytest.raises(IllegalTransition, match=f"{before.name} to {after.name}"):
        apply(state_with(before), r.JobStateChanged("moe-1", after), 1)


@pytest.mark.parametrize(("before", "after"), steps(NODE_LIVENESS, legal=True))
def test_legal_liveness_steps(before: NodeLiveness, after: NodeLiveness) -> None:
    state = state_with()
    state.fleet.liveness[0] = before
    apply(state, r.LivenessChanged(("n0",), after, ""), 1)
    assert state.fleet.liveness[0] == after


@pytest.mark.parametrize(("before", "after"), steps(NODE_LIVENESS, legal=False))
def test_illegal_liveness_steps(before: NodeLiveness, after: NodeLiveness) -> None:
    state = state_with()
    state.fleet.liveness[0] = before
    with pytest.raises(IllegalTransition, match=f"{before.name} to {after.name}"):
        apply(state, r.LivenessChanged(("n0",), after, ""), 1)


CHECKPOINT_RECORDS = {
    CheckpointState.COMMITTED: r.CheckpointCommitted("moe-1", "c", 10),
    CheckpointState.VERIFIED: r.CheckpointVerified("moe-1", "c"),
    CheckpointState.POISONED: r.CheckpointPoisoned("moe-1", "c", "bad"),
}


@pytest.mark.parametrize(("before", "after"), steps(CHECKPOINT_STATES, legal=True))
def test_legal_checkpoint_steps(before: CheckpointState, after: CheckpointState) -> None:
    if after is CheckpointState.EXPIRED:  # it is dropped
        state = state_with(checkpoint=before)
        apply(state, r.CheckpointsExpired("moe-1", ("c",)), 1)
        assert state.jobs["moe-1"].checkpoints == {}
        return
    state = state_with(checkpoint=before)
    apply(state, CHECKPOINT_RECORDS[after], 1)
    assert state.jobs["moe-1"].checkpoints["c"].state is after


@pytest.mark.parametrize(
    ("before", "after"), [pair for pair in steps(CHECKPOINT_STATES, legal=False) if pair[1] in CHECKPOINT_RECORDS]
)
def test_illegal_checkpoint_steps(before: CheckpointState, after: CheckpointState) -> None:
    with pytest.raises(IllegalTransition, match=f"{before.name} to {after.name}"):
        apply(state_with(checkpoint=before), CHECKPOINT_RECORDS[after], 1)


@pytest.mark.parametrize("generation", [-1, 0, 2, 9])
def test_generations_grow_by_one(generation: int) -> None:
    with pytest.raises(IllegalTransition, match=f"generation {generation} after 0"):
        apply(state_with(), r.GenerationStarted("moe-1", generation, (), (), "", 0), 1)


@pytest.mark.parametrize("epoch", [0, 4, 5])
def test_epochs_only_grow(epoch: int) -> None:
    state = state_with()
    state.epoch = 5
    with pytest.raises(IllegalTransition, match=f"epoch {epoch} after 5"):
        apply(state, r.ControllerStarted(epoch, "0"), 1)


@pytest.mark.parametrize("phase", [Phase.DETECT, Phase.DECIDE, Phase.PLACE])
def test_ranks_report_only_their_phases(phase: Phase) -> None:
    with pytest.raises(IllegalTransition, match=phase.value):
        apply(state_with(), r.GenerationReached("moe-1", 0, phase, 1), 1)


@pytest.mark.parametrize(("before", "after"), steps(NODE_SERVICE, legal=True))
def test_legal_service_steps(before: NodeService, after: NodeService) -> None:
    fleet = state_with().own_fleet()
    fleet.service[0] = before
    set_service(fleet, 0, after)
    assert fleet.service[0] == after


@pytest.mark.parametrize(("before", "after"), steps(NODE_SERVICE, legal=False))
def test_illegal_service_steps(before: NodeService, after: NodeService) -> None:
    fleet = state_with().own_fleet()
    fleet.service[0] = before
    with pytest.raises(IllegalTransition, match=f"{before.name} to {after.name}"):
        set_service(fleet, 0, after)


def test_only_tables_move_a_node_out_of_health_s_hands() -> None:
    """From quarantine work is reached through checks and a trial, or by an operator's word; a trial ends in service."""
    assert NodeService.PROBATION not in NODE_SERVICE[NodeService.QUARANTINED]
    assert {state for state, following in NODE_SERVICE.items() if not following} == {NodeService.RETIRED}
