"""The simulator against the exact formula: decisions pinned to plain cases, the same failures for both.

How the interval gets small (a control variate): for every run of the simulator a plain recursion of the case (`replay`, ten
lines, no Phalanx in it) is fed the very same failure times. What the recursion gives on average is known exactly, it is
the formula; so the simulator's mean is estimated as the formula plus the mean difference between simulator and recursion.
The chance of how many failures a run has, and when, cancels. The plain mean of the runs is shown beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from controlplane.sim.ettr.arrivals import Times
from controlplane.sim.ettr.conduct import pinned
from controlplane.sim.ettr.renewal import DAY_S, PlainCase, ettr, mtbf_s
from controlplane.sim.ettr.run import Arrivals, Outcome, Plan, Repairs, Weather, equivalent
from controlplane.sim.gang_shape import Shape

GANG_NODES = 16
"""Nodes of the calibrated gang, whose failures come as often as those of 6,250: a pinned case does not depend on size."""
POOL_NODES = 16
T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110,
    2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t for a two-sided 95 % interval, by degrees of freedom from 1 on."""
Z95 = 1.96
"""What it comes to for many runs."""


def replay(failures: Times, duration_s: float, downtime_s: float, interval_s: float, stall_s: float) -> float:
    """Share of productive time of a plain case on given failures (seconds, ascending); a failure in a downtime begins it anew."""
    cycle_s = interval_s + stall_s
    saved, up_s = 0, 0.0
    for at_s in failures.tolist():
        if at_s >= duration_s:
            break
        if at_s >= up_s:
            saved += int((at_s - up_s) / cycle_s)
        up_s = at_s + downtime_s
    if duration_s > up_s:
        saved += int((duration_s - up_s) / cycle_s)
    return saved * interval_s / duration_s


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean in percent with the half width of its 95 % interval, and what it was taken from."""

    percent: float
    half_width: float
    runs: int

    def __str__(self) -> str:
        return f"{self.percent:.2f} ± {self.half_width:.2f}"


def estimate(shares: Sequence[float]) -> Estimate:
    """Mean and Student interval of shares (0 to 1) of independent runs. One run has no interval: NaN."""
    values = 100.0 * np.array(shares)
    free = len(values) - 1
    spread = float(np.std(values, ddof=1)) if free else math.nan
    wide = T95[free - 1] if 0 < free <= len(T95) else Z95
    return Estimate(float(np.mean(values)), wide * spread / math.sqrt(len(values)), len(values))


@dataclass(frozen=True, slots=True)
class Calibrated:
    """One case at one rate. `mean` uses the control variate, `plain` does not; `error` is `mean` less `exact`, in points."""

    case: PlainCase
    rate: float
    exact: float
    mean: Estimate
    plain: Estimate
    failures: int

    @property
    def error(self) -> float:
        """Points between the simulator's mean and the formula."""
        return self.mean.percent - self.exact


def plan_case(case: PlainCase, rate: float, days: float, seed: int, nodes: int = GANG_NODES) -> Plan:
    """A run of a plain case at a rate per 1,000 node-days of the modelled 6,250 nodes."""
    conduct = pinned(case, mtbf_s(rate))
    weather = Weather(equivalent(rate, nodes), repairs=Repairs(again=0.0))
    return Plan(Shape(nodes, POOL_NODES), conduct, weather, days, seed)


def replay_of(case: PlainCase, rate: float, days: float, outcome: Outcome) -> float:
    """The plain recursion on the failures of a run."""
    mtbf = mtbf_s(rate)
    return replay(outcome.failures, days * DAY_S, case.downtime_s, case.interval_at(mtbf), case.stall_s)


def calibrated(case: PlainCase, rate: float, days: float, outcomes: Sequence[Outcome]) -> Calibrated:
    """What the runs of a case say."""
    exact = 100.0 * case.ettr(mtbf_s(rate))
    difference = estimate([outcome.share - replay_of(case, rate, days, outcome) for outcome in outcomes])
    mean = replace(difference, percent=exact + difference.percent)
    failures = sum(len(outcome.failures) for outcome in outcomes)
    return Calibrated(case, rate, exact, mean, estimate([outcome.share for outcome in outcomes]), failures)


def plan_trace(case: PlainCase, rate: float, kind: Arrivals, days: float, seed: int) -> Plan:
    """A run of a plain case with the failures of the public trace."""
    plan = plan_case(case, rate, days, seed)
    return replace(plan, weather=replace(plan.weather, arrivals=kind))


def trace_difference(case: PlainCase, rate: float, runs: Sequence[Times], days: float) -> Estimate:
    """Points by which a plain case does better (or worse) under given failures than by the formula, whose are exponential.

    By the plain recursion, which the simulator equals on the same failures (`plan_trace` shows it), so that many years can
    be looked at. A run does not have exactly as many failures as the rate asks for (the last copy is thinned, laps are cut):
    it is compared with the formula at the rate that it had. `runs`: failures in seconds, each of `days`.
    """
    interval = case.interval_at(mtbf_s(rate))
    differences = []
    for times in runs:
        had = days * DAY_S / max(1, len(times))
        share = replay(times, days * DAY_S, case.downtime_s, interval, case.stall_s)
        differences.append(share - ettr(had, case.downtime_s, interval, case.stall_s))
    return estimate(differences)
