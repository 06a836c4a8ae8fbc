"""A gang over the real turn: the plain cases come out as the formula says, and our own recoveries as their phases say."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.core.vocabulary import JobState, NodeLiveness
from controlplane.sim import gang_strikes
from controlplane.sim.ettr import calibration, phases
from controlplane.sim.ettr.arrivals import stream
from controlplane.sim.ettr.calibration import calibrated, plan_case, replay
from controlplane.sim.ettr.conduct import CAUSE_SHARE, Cause, Conduct, full_restart, ours
from controlplane.sim.ettr.policies import Scale, controlled, cost_s, our_world, plan_of, share_of
from controlplane.sim.ettr.progress import Progress, Saving
from controlplane.sim.ettr.renewal import DAY_S, PLAIN_CASES, mtbf_s
from controlplane.sim.ettr.run import Arrivals, Plan, Repairs, Weather, failure_times, simulate
from controlplane.sim.gang import Gang
from controlplane.sim.gang_shape import Shape

ROOT = Path(__file__).parents[3]
CASES = {case.key: case for case in PLAIN_CASES}


def conduct() -> Conduct:
    return ours(phases.load(), warm_nodes=2)


@pytest.mark.parametrize(("key", "days"), [("a", 0.5), ("b", 1.0), ("c'", 1.0)])
def test_pinned_decisions_agree_with_the_formula(key: str, days: float) -> None:
    case = CASES[key]
    outcomes = [simulate(plan_case(case, 6.5, days, seed)) for seed in (1, 2, 3)]
    found = calibrated(case, 6.5, days, outcomes)
    assert found.failures > 30
    assert abs(found.error) < 0.5
    assert found.mean.half_width < 0.15


@pytest.mark.parametrize("case", PLAIN_CASES, ids=lambda case: case.key)
def test_the_plain_recursion_has_the_formulas_mean(case: object) -> None:
    """What the control variate rests on: long runs of the recursion alone."""
    assert isinstance(case, type(PLAIN_CASES[0]))
    mtbf, days = mtbf_s(6.5), 2_000.0
    shares = []
    for seed in range(4):
        times = failure_times(Weather(6.5), 6_250, days, seed)
        shares.append(replay(times, days * DAY_S, case.downtime_s, case.interval_at(mtbf), case.stall_s))
    assert 100 * sum(shares) / len(shares) == pytest.approx(100 * case.ettr(mtbf), abs=0.4)


@pytest.mark.parametrize("kind", [Arrivals.TRACE, Arrivals.CORRELATED])
def test_on_failures_of_the_trace_simulator_and_recursion_agree(kind: Arrivals) -> None:
    case = CASES["flash"]
    outcome = simulate(calibration.plan_trace(case, 6.5, kind, 1.0, 1))
    assert len(outcome.failures) > 5
    assert outcome.share == pytest.approx(calibration.replay_of(case, 6.5, 1.0, outcome), abs=1e-3)


def test_the_recursion_on_failures_by_hand() -> None:
    failures = stream(0, "none").uniform(size=0)
    assert replay(failures, 100.0, 10.0, 9.0, 1.0) == pytest.approx(0.9)
    failures = failures.__class__(2)
    failures[:] = (25.0, 30.0)  # two saves, down to 40, six saves
    assert replay(failures, 100.0, 10.0, 9.0, 1.0) == pytest.approx(8 * 9.0 / 100.0)


@pytest.mark.parametrize(
    ("cause", "rung"),
    [
        (Cause.DEVICE, "REPLACE_RANK"),
        (Cause.PROCESS, "RESTART_RANK"),
        (Cause.NETWORK, "REPLACE_RANK"),
        (Cause.SILENCE, "REPLACE_RANK"),
        (Cause.HANG, "RESTART_RANK"),
    ],
)
def test_a_failure_costs_its_phases_and_no_more(cause: Cause, rung: str) -> None:
    gang = Gang(Shape(6, 4), conduct())
    gang.repair_s = lambda cause: 3_600.0
    gang.bring_up()
    gang.after_start(102.5, lambda: gang.strike_rank(3, cause))
    gang.run(600.0)
    assert gang.tally.rungs == {rung: 1}
    phases_s = cost_s(gang.conduct, cause) - gang.conduct.saving.step_s / 2
    assert gang.tally.down_s[cause] == pytest.approx(phases_s, abs=0.3)
    assert gang.job.state is JobState.RUNNING
    steps = gang.progress.saved(gang.kernel.now_ns)
    assert steps == int(102.5 / 5.0) + int((600.0 - 102.5 - gang.tally.down_s[cause]) / 5.0)


def test_a_failure_during_a_recovery_begins_it_anew() -> None:
    gang = Gang(Shape(6, 4), conduct())
    gang.repair_s = lambda cause: 3_600.0
    gang.bring_up()
    gang.after_start(100.0, lambda: gang.strike_rank(3, Cause.DEVICE))
    gang.after_start(115.0, lambda: gang.strike_rank(1, Cause.DEVICE))
    gang.run(300.0)
    assert gang.tally.down_s[Cause.DEVICE] == pytest.approx(15.0 + 24.35, abs=0.3)
    assert gang.tally.generations == 3


def test_a_job_without_spares_waits_for_a_repair_and_goes_on() -> None:
    gang = Gang(Shape(4, 0), replace(conduct(), warm_nodes=0))
    gang.repair_s = lambda cause: 1_000.0
    gang.bring_up()
    gang.after_start(100.0, lambda: gang.strike_rank(0, Cause.DEVICE))
    gang.run(900.0)
    assert gang.job.state is JobState.SUSPENDED
    gang.run(2_500.0)
    assert gang.job.state is JobState.RUNNING


def test_a_lost_rack_is_replaced_at_once_while_warm_spares_last() -> None:
    gang = Gang(Shape(16, 8, rack_nodes=4), replace(conduct(), warm_nodes=4))
    gang.repair_s = lambda cause: 3_600.0
    gang.bring_up()
    gang.after_start(100.0, lambda: gang.strike(range(4, 8), Cause.SILENCE))
    gang.run(400.0)
    assert gang.job.state is JobState.RUNNING
    dead = gang.engine.state.fleet.liveness == NodeLiveness.DEAD
    assert dead.nonzero()[0].tolist() == [4, 5, 6, 7]
    assert gang.tally.down_s[Cause.SILENCE] < 40.0


@pytest.mark.parametrize("conduct", [conduct(), full_restart(phases.load())], ids=["ours", "full restart"])
def test_half_a_gang_that_is_lost_goes_on_where_it_was_saved(conduct: Conduct) -> None:
    gang = Gang(Shape(8, 8, rack_nodes=4), replace(conduct, warm_nodes=4))
    gang.repair_s = lambda cause: 3_600.0
    gang.bring_up()
    gang.after_start(4_000.0, lambda: gang_strikes.rack_of_rank(gang, 0))
    gang.run(7_000.0)
    assert gang.job.state is JobState.RUNNING
    assert gang.job.restore_step >= 720


def test_racks_are_lost_where_the_job_stands_and_elsewhere() -> None:
    def lost(hits: float) -> tuple[int, float]:
        weather = Weather(0.0, rack_rate=500.0, rack_hits=hits, repairs=Repairs(1.0, 1.0, again=0.0))
        tally = simulate(Plan(Shape(16, 24, rack_nodes=8), replace(conduct(), warm_nodes=8), weather, 3.0, 1)).tally
        return tally.strikes[Cause.SILENCE], tally.down_s.get(Cause.SILENCE, 0.0)

    (often, down_s), (as_often, _) = lost(1.0), lost(0.0)
    assert often > 3
    assert as_often > 3
    assert down_s > 20.0 * often


def test_repaired_nodes_fault_again_within_a_day() -> None:
    def strikes(again: float) -> tuple[int, int]:
        repairs = Repairs(median_h=1.0, mean_h=1.0, again=again)
        plan = Plan(Shape(4, 2), conduct(), Weather(250.0, repairs=repairs), 8.0, 1)
        tally = simulate(plan).tally
        return tally.strikes.get(Cause.DEVICE, 0), tally.again

    alone, none = strikes(0.0)
    twice, hits = strikes(0.8)
    assert (none, alone > 0) == (0, True)
    assert twice > 2 * alone  # four of five repairs lead to another one
    assert hits > 0


def test_two_runs_of_a_seed_are_the_same_run_also_in_another_process() -> None:
    code = (
        "from controlplane.sim.ettr import phases\n"
        "from controlplane.sim.ettr.policies import *\n"
        "from controlplane.sim.ettr.run import simulate\n"
        "print(simulate(plan_of(our_world(phases.load(), 6.5), Scale(8, 1, 0.3), 7)).digest)"
    )
    digests = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        digests.add(done.stdout)
    digests.add(simulate(plan_of(our_world(phases.load(), 6.5), Scale(8, 1, 0.3), 7)).digest + "\n")
    assert len(digests) == 1


def test_the_control_variate_narrows_and_does_not_move_the_mean() -> None:
    plans = [plan_of(our_world(phases.load(), 6.5), Scale(8, 1, 0.5), seed) for seed in range(4)]
    outcomes = [simulate(plan) for plan in plans]
    plain = calibration.estimate([outcome.share for outcome in outcomes])
    narrow = calibration.estimate([controlled(p, o) for p, o in zip(plans, outcomes, strict=True)])
    assert narrow.half_width < plain.half_width / 3
    assert abs(narrow.percent - plain.percent) < plain.half_width + narrow.half_width


def test_where_all_restart_the_recursion_narrows_and_does_not_move_the_mean() -> None:
    world = replace(our_world(phases.load(), 6.5), conduct=full_restart(phases.load()))
    plans = [plan_of(world, Scale(16, 1, 0.5), seed) for seed in range(4)]
    outcomes = [simulate(plan) for plan in plans]
    plain, narrow = calibration.estimate([outcome.share for outcome in outcomes]), share_of(plans, outcomes)
    assert narrow.half_width < plain.half_width / 2
    assert abs(narrow.percent - plain.percent) < plain.half_width + narrow.half_width


def test_shares_of_causes_sum_to_one() -> None:
    assert sum(CAUSE_SHARE.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Shape(0, 1),
        lambda: Shape(4, -1),
        lambda: Shape(4, 1, ranks_per_node=3),
        lambda: Saving(0.0),
        lambda: Weather(-1.0),
        lambda: Repairs(median_h=10.0, mean_h=5.0),
        lambda: Repairs(again=1.5),
        lambda: Plan(Shape(4, 1), conduct(), Weather(1.0), 0.0, 1),
    ],
)
def test_impossible_sizes_and_rates_are_refused(bad: object) -> None:
    with pytest.raises(ValueError, match=r"must|median|multiple"):
        bad()  # type: ignore[operator]


def test_steps_and_saves_in_closed_form() -> None:
    second = 1_000_000_000
    progress = Progress(Saving(5.0, 3, 1.0))
    progress.start(0)
    assert progress.step(4 * second) == (0, 0)
    assert progress.step(12 * second) == (2, 10 * second)
    assert progress.step(15 * second) == (3, 15 * second)
    assert progress.saved(15 * second) == 0  # the save is not done yet
    assert progress.saved(16 * second) == 3
    assert progress.step(17 * second) == (3, 15 * second)
    assert progress.halt(27 * second) == 2
    assert (progress.kept, progress.running) == (3, False)
