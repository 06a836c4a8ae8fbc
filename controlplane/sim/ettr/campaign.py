"""All figures of effective training time: which runs they need. `result_tables` makes tables of them, `figures` orders them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from controlplane.sim.ettr import calibration as cal
from controlplane.sim.ettr.break_even import Bracket
from controlplane.sim.ettr.calibration import Calibrated, Estimate
from controlplane.sim.ettr.phases import Column, Kind, Phases
from controlplane.sim.ettr.policies import (
    CHANGES,
    EQUIVALENT_NODES,
    OTHERS,
    Scale,
    World,
    our_world,
    plan_of,
    share_of,
)
from controlplane.sim.ettr.renewal import NODES, PLAIN_CASES, RATES, PlainCase, mtbf_s
from controlplane.sim.ettr.run import Arrivals, Outcome, Weather, failure_times
from controlplane.sim.ettr.runner import Runner

GOALS: Mapping[float, float] = {3.8: 99.0, 6.5: 98.5}
"""Percent that our policy is to reach with expected durations, by rate."""
RESTART_NODES = 16
"""Nodes of the gang where every failure restarts the whole job: its cost does not depend on size."""
CURVE_RATES = (1.0, 2.3, 3.8, 5.0, 6.5, 8.0, 10.0)
POOLS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06)
"""Nodes beside the job, as shares of it."""
BREAK_EVEN_ROUNDS = 6
TRACE_DAYS, TRACE_SEEDS = 300.0, 10
"""What the plain recursion is run over, for the effect of bursts."""
BURSTS = (Arrivals.TRACE, Arrivals.ONCE, Arrivals.CORRELATED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is simulated. `full`, `full_seeds`: the whole site; `small_*`: comparisons; `spare_days`: what depends on
    nodes in repair, which takes longer to settle. `everything`: break-evens, bursts and all points of the curves."""

    full: Scale
    full_seeds: int
    small_days: float
    small_seeds: int
    calibration_days: float
    calibration_seeds: int
    spare_days: float
    everything: bool = True


FULL = Effort(
    full=Scale(NODES, 1, 54.0), full_seeds=4, small_days=8.0, small_seeds=4, calibration_days=8.0, calibration_seeds=4,
    spare_days=27.0,
)  # fmt: skip
"""About a quarter of an hour on two cores."""
QUICK = Effort(
    full=Scale(NODES, 1, 0.5), full_seeds=2, small_days=0.5, small_seeds=2, calibration_days=0.5, calibration_seeds=2,
    spare_days=4.0, everything=False,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart: points (x, percent)."""

    name: str
    points: tuple[tuple[float, float], ...]


def _seeds(count: int, first: int) -> range:
    return range(first, first + count)


class Campaign:
    """Runs and tabulates. Every section can be asked for alone; outcomes of one seed are the same wherever they run."""

    def __init__(self, phases: Phases, effort: Effort, runner: Runner, seed: int = 1) -> None:
        self.phases, self.effort, self.runner, self.seed = phases, effort, runner, seed

    def _small(self, nodes: int = EQUIVALENT_NODES) -> Scale:
        return Scale(nodes, 1, self.effort.small_days)

    def _shares(self, what: str, worlds: Sequence[World], scale: Scale, seeds: int) -> list[Estimate]:
        """Mean and interval of each world over the same seeds."""
        plans = [[plan_of(world, scale, seed) for seed in _seeds(seeds, self.seed)] for world in worlds]
        outcomes = self.runner.run(what, [plan for group in plans for plan in group])
        return [share_of(group, outcomes[i * seeds : (i + 1) * seeds]) for i, group in enumerate(plans)]

    # Calibration

    def calibrate(self) -> list[Calibrated]:
        """Every plain case at every rate."""
        effort = self.effort
        pairs = [(case, rate) for case in PLAIN_CASES for rate in RATES]
        seeds = _seeds(effort.calibration_seeds, self.seed)
        plans = [cal.plan_case(case, rate, effort.calibration_days, seed) for case, rate in pairs for seed in seeds]
        outcomes = _grouped(self.runner.run("calibration", plans), len(seeds))
        return [
            cal.calibrated(case, rate, effort.calibration_days, group)
            for (case, rate), group in zip(pairs, outcomes, strict=True)
        ]

    def traces(self) -> dict[tuple[PlainCase, Arrivals, float], Estimate]:
        """The difference that bursts make to plain cases."""
        found = {}
        for kind in BURSTS:
            for rate in RATES:
                weather = Weather(rate, arrivals=kind)
                runs = [failure_times(weather, NODES, TRACE_DAYS, seed) for seed in _seeds(TRACE_SEEDS, self.seed)]
                for case in PLAIN_CASES:
                    found[case, kind, rate] = cal.trace_difference(case, rate, runs, TRACE_DAYS)
        return found

    def trace_check(self) -> float:
        """Greatest difference (points) between simulator and recursion on failures of the trace, over a few runs."""
        cases = [case for case in PLAIN_CASES if case.key in ("a", "flash")]
        days = self.effort.calibration_days
        keys = [(case, kind) for case in cases for kind in (Arrivals.TRACE, Arrivals.CORRELATED)]
        plans = [cal.plan_trace(case, RATES[-1], kind, days, self.seed) for case, kind in keys]
        outcomes = self.runner.run("failures of the public trace", plans)
        pairs = zip(keys, outcomes, strict=True)
        return max(100 * abs(one.share - cal.replay_of(case, RATES[-1], days, one)) for (case, _), one in pairs)

    # Our policy

    def ours(self) -> dict[tuple[Column, float], Estimate]:
        """Our policy with expected durations on the whole site, by rate."""
        worlds = [our_world(self.phases, rate) for rate in RATES]
        found = self._shares("our policy on the whole site", worlds, self.effort.full, self.effort.full_seeds)
        return {(Column.EXPECTED, rate): share for rate, share in zip(RATES, found, strict=True)}

    def bounds(self) -> dict[tuple[Column, float], Estimate]:
        """The same with the shortest and the longest durations, on a small site with the same failures."""
        keys = [(column, rate) for column in (Column.LOW, Column.HIGH) for rate in RATES]
        worlds = [our_world(self.phases.at(column), rate) for column, rate in keys]
        found = self._shares("shortest and longest durations", worlds, self._small(), self.effort.small_seeds)
        return dict(zip(keys, found, strict=True))

    def parts(self, rate: float) -> dict[str, Estimate]:
        """Our policy ("") and every change of it, at one rate; the same failures for all."""
        base = our_world(self.phases, rate)
        kept = {name: change for name, (_, change) in CHANGES.items() if name != "restart job"}
        worlds = [base, *(change(base, self.phases, rate) for change in kept.values())]
        found = self._shares(f"parts at r {rate:g}", worlds, self._small(), self.effort.small_seeds)
        restart = CHANGES["restart job"][1](base, self.phases, rate)
        alone = self._shares("whole job restarts", [restart], self._small(RESTART_NODES), self.effort.small_seeds)
        return {"": found[0], **dict(zip(kept, found[1:], strict=True)), "restart job": alone[0]}

    def others(self) -> dict[tuple[str, float], Estimate]:
        """Published ways to recover in our world, by name and rate."""
        keys = [(name, rate) for name in OTHERS for rate in RATES]
        worlds = [replace(our_world(self.phases, rate), conduct=OTHERS[name][1](self.phases)) for name, rate in keys]
        found = self._shares("published policies", worlds, self._small(RESTART_NODES), self.effort.small_seeds)
        return dict(zip(keys, found, strict=True))

    def break_evens(self, goals: Mapping[float, float] = GOALS) -> dict[tuple[str, float], float | None]:
        """The duration (seconds) of each assumed phase at which our policy just reaches the goal (percent) of a rate; None: it
        is missed even when the phase takes no time. All tries meet the same failures; those of one round run together."""
        brackets = {
            (name, rate): Bracket(goal, self.phases[name])
            for rate, goal in goals.items()
            for name in self.phases.of_kind(Kind.ASSUMED)
        }
        for number in range(1, BREAK_EVEN_ROUNDS + 1):
            tries = {key: bracket.next_s() for key, bracket in brackets.items() if not bracket.settled}
            if not tries:
                break
            worlds = [our_world(self.phases.with_duration(name, tries[name, rate]), rate) for name, rate in tries]
            found = self._shares(f"break-even of assumed phases, round {number}", worlds, self._small(), 1)
            for key, share in zip(tries, found, strict=True):
                brackets[key].note(tries[key], share.percent)
        return {key: bracket.even_s() for key, bracket in brackets.items()}

    # Curves

    def over_rates(self) -> list[Series]:
        """Effective time over the failure rate: ours and the published ways."""
        rates = CURVE_RATES if self.effort.everything else RATES
        lines = [Series("Phalanx", self._line(rates, None))]
        lines += [Series(title, self._line(rates, name)) for name, (title, _) in OTHERS.items()]
        floor = next(case for case in PLAIN_CASES if case.key == "c'")
        exact = tuple((rate, 100.0 * floor.ettr(mtbf_s(rate))) for rate in rates)
        return [*lines, Series("physical floor (formula)", exact)]

    def _line(self, rates: Sequence[float], other: str | None) -> tuple[tuple[float, float], ...]:
        worlds = [our_world(self.phases, rate) for rate in rates]
        if other is not None:
            worlds = [replace(world, conduct=OTHERS[other][1](self.phases)) for world in worlds]
        scale = self._small(EQUIVALENT_NODES if other is None else RESTART_NODES)
        found = self._shares(f"curve of {other or 'our policy'}", worlds, scale, 1)
        return tuple((rate, share.percent) for rate, share in zip(rates, found, strict=True))

    def over_spares(self) -> list[Series]:
        """Effective time over the nodes beside the job, by failure rate; what is down for repair comes out of them."""
        scale = Scale(EQUIVALENT_NODES, 1, self.effort.spare_days)
        lines = []
        for rate in RATES:
            worlds = [replace(our_world(self.phases, rate), pool=round(NODES * share)) for share in POOLS]
            found = self._shares(f"spares at r {rate:g}", worlds, scale, 1)
            points = zip(POOLS, found, strict=True)
            lines.append(Series(f"r = {rate:g}", tuple((100.0 * pool, share.percent) for pool, share in points)))
        return lines


def _grouped(outcomes: Sequence[Outcome], size: int) -> list[Sequence[Outcome]]:
    return [outcomes[first : first + size] for first in range(0, len(outcomes), size)]
