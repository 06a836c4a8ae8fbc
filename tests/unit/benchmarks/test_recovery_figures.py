"""What the recovery benchmark strikes, and when its figures are within their limits."""

from __future__ import annotations

import random

import pytest

from tests.benchmarks.recovery import scaling
from tests.benchmarks.recovery.report import LEASE_S, show, within_must
from tests.benchmarks.recovery.runs import Cell, Fault, Results
from tests.benchmarks.recovery.scaling import WHOLE, by_phase, fit
from tests.benchmarks.recovery.steplog import Recovery
from tests.benchmarks.recovery.systems import ACTOR, NODE, RANK, RANK0, TWO
from tests.benchmarks.recovery.systems import WHOLE as WHOLE_AGAIN
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
    assert all(fault.victims(WHOLE_AGAIN) == fault.victims(RANK) for fault in faults)
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


def test_a_peer_that_promises_less_is_set_beside_us_with_what_it_promises_and_with_all_ranks_again() -> None:
    found = results(RANK, Recovery(0.1, 0.2, 0))
    found.cell("torchrun", RANK).recoveries.append(Recovery(1.9, 2.0, 4))
    found.cell("torchft", RANK).recoveries.append(Recovery(0.5, 0.6, 0))
    found.cell("torchft", WHOLE_AGAIN).recoveries.append(Recovery(2.3, 2.4, 0))
    said: list[str] = []
    show(found, (), 7, said.append)
    ratios = [line.strip() for line in said if "better peer" in line]
    assert ratios[0] == "kill to first new step: the better peer (torchft) takes 3.0 times as long as phalanx (goal 10)"
    assert "all ranks again: the better peer (torchrun) takes 10.0 times" in ratios[1]
    assert len(ratios) == 4


def test_a_fit_finds_what_each_doubling_adds() -> None:
    line = fit({2: 0.15, 4: 0.2, 8: 0.25, 16: 0.3})
    assert (line.base_s, line.doubling_s, line.residual_s) == pytest.approx((0.1, 0.05, 0.0))
    assert line.at(50_000) == pytest.approx(0.88, abs=0.001)


def test_what_does_not_fit_shows_in_the_residual() -> None:
    assert fit({2: 0.1, 4: 0.1, 8: 0.1, 16: 0.5}).residual_s > 0.1
    with pytest.raises(ValueError, match="two different"):
        fit({4: 0.2})


def test_sizes_without_a_figure_are_left_out_and_the_far_figure_is_named_for_what_it_is() -> None:
    cells = {
        ranks: Cell([Recovery(0.1, new_step_s, 1)], [{"detect": 0.01}]) for ranks, new_step_s in ((2, 0.2), (16, 0.5))
    }
    cells[8] = Cell(failure="it did not start")
    table = by_phase(cells, Cell([Recovery(0.1, 0.3, 1)], [{"detect": 0.02}]))
    assert table[WHOLE] == {2: 0.2, 4: 0.3, 16: 0.5}
    assert table["detect"] == {2: 0.01, 4: 0.02, 16: 0.01}
    said: list[str] = []
    scaling.show(table, said.append)
    assert "8 ranks" not in said[0]
    assert any("EXTRAPOLATION" in line and "not a measurement" in line for line in said)


def test_the_state_changes_in_place_and_begins_anew_in_place() -> None:
    training = Training()
    kept = training.tensors()
    first = {name: value.clone() for name, value in kept.items()}
    gradients, _loss = training.gradients(0, 0)
    training.update(gradients)
    assert all((kept[name] != first[name]).any() for name in first)
    training.initialise()
    assert all((kept[name] == first[name]).all() for name in first)
