"""What the recovery benchmark strikes, and when its figures are within their limits."""

from __future__ import annotations

import random

import pytest

from tests.benchmarks.recovery.report import LEASE_S, within_must
from tests.benchmarks.recovery.runs import Fault, Results
from tests.benchmarks.recovery.steplog import Recovery
from tests.benchmarks.recovery.systems import ACTOR, NODE, RANK, RANK0, TWO
from tests.benchmarks.recovery.workload import RANKS, Training


def results(kind: str, *recoveries: Recovery) -> Results:
    """Of our own system alone, with a step of 20 ms."""
    found = Results(step_s={"phalanx": 0.02})
    found.cell("phalanx", kind).recoveries.extend(recoveries)
    return found


def test_kinds_of_kills_strike_whom_they_say() -> None:
    chance = random.Random(3)
    faults = [Fault.draw(chance) for _ in range(200)]
    assert {fault.victims(RANK) for fault in faults} == {(1,), (2,), (3,)}
    assert {fault.victims(RANK0) for fault in faults} == {(0,)}
    assert all(len({*fault.victims(TWO)}) == 2 for fault in faults)
    for kind in (ACTOR, NODE):
        assert {fault.victims(kind) for fault in faults} == {(rank,) for rank in range(RANKS)}


@pytest.mark.parametrize("kind", [RANK, RANK0, TWO, ACTOR])
def test_half_a_second_and_one_step_is_the_limit(kind: str) -> None:
    assert within_must(results(kind, Recovery(0.3, 0.52, 1)))
    assert not within_must(results(kind, Recovery(0.3, 0.53, 1)))


def test_a_node_has_its_lease_beside_that() -> None:
    assert within_must(results(NODE, Recovery(3.0, LEASE_S + 0.52, 1)))
    assert not within_must(results(NODE, Recovery(3.0, LEASE_S + 0.53, 1)))


def test_one_recovery_that_does_two_steps_again_is_one_too_many() -> None:
    quick = Recovery(0.1, 0.2, 1)
    assert within_must(results(RANK, quick, quick, quick))
    assert not within_must(results(RANK, quick, quick, Recovery(0.1, 0.2, 2)))


def test_a_run_without_our_figures_is_not_within_them() -> None:
    assert not within_must(Results())
    failed = results(RANK, Recovery(0.1, 0.2, 0))
    failed.cell("phalanx", RANK).failure = "it did not come back"
    assert not within_must(failed)


def test_the_state_changes_in_place_and_begins_anew_in_place() -> None:
    training = Training()
    kept = training.tensors()
    first = {name: value.clone() for name, value in kept.items()}
    gradients, _loss = training.gradients(0, 0)
    training.update(gradients)
    assert all((kept[name] != first[name]).any() for name in first)
    training.initialise()
    assert all((kept[name] == first[name]).all() for name in first)
