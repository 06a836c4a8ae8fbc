"""All figures of effective training time: which runs they need, and the tables that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from controlplane.sim.ettr import calibration as cal
from controlplane.sim.ettr.calibration import Calibrated, Estimate
from controlplane.sim.ettr.phases import Column, Kind, Phases
from controlplane.sim.ettr.policies import (
    CHANGES,
    EQUIVALENT_NODES,
    OTHERS,
    PUBLISHED,
    Scale,
    World,
    our_world,
    plan_of,
    share_of,
)
from controlplane.sim.ettr.renewal import NODES, PLAIN_CASES, RATES, PlainCase, mtbf_s
from controlplane.sim.ettr.run import Arrivals, Outcome
from controlplane.sim.ettr.runner import Runner
from controlplane.sim.ettr.tables import Table

GOALS: Mapping[float, float] = {3.8: 99.0, 6.5: 98.5}
"""Percent that our policy is to reach with expected durations, by rate."""
RESTART_NODES = 16
"""Nodes of the gang where every failure restarts the whole job: its cost does not depend on size."""
CURVE_RATES = (1.0, 2.3, 3.8, 5.0, 6.5, 8.0, 10.0)
POOLS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06)
"""Nodes beside the job, as shares of it."""
BREAK_EVEN_TRIES = 6
TRACE_DAYS, TRACE_SEEDS = 300.0, 10
"""What the plain recursion is run over, for the effect of bursts."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is simulated: days and seeds of the whole site (`full`), of comparisons (`small`) and of calibration."""

    full: Scale
    full_seeds: int
    small_days: float
    small_seeds: int
    calibration_days: float
    calibration_seeds: int
    everything: bool = True


FULL = Effort(Scale(NODES, 1, 54.0), 2, 27.0, 2, 54.0, 2)
QUICK = Effort(Scale(NODES, 1, 0.5), 2, 0.5, 2, 0.5, 2, everything=False)


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

    def traces(self) -> list[tuple[PlainCase, float, Arrivals, Estimate]]:
        """The difference that bursts make to plain cases."""
        seeds = _seeds(TRACE_SEEDS, self.seed)
        return [
            (case, rate, kind, cal.trace_difference(case, rate, kind, TRACE_DAYS, seeds))
            for case in PLAIN_CASES
            for rate in RATES
            for kind in (Arrivals.TRACE, Arrivals.CORRELATED)
        ]

    def trace_check(self) -> float:
        """Greatest difference (points) between simulator and recursion on failures of the trace, over a few runs."""
        cases = [case for case in PLAIN_CASES if case.key in ("a", "flash")]
        days = self.effort.calibration_days / 2
        keys = [(case, kind) for case in cases for kind in (Arrivals.TRACE, Arrivals.CORRELATED)]
        plans = [cal.plan_trace(case, RATES[-1], kind, days, self.seed) for case, kind in keys]
        outcomes = self.runner.run("failures of the public trace", plans)
        pairs = zip(keys, outcomes, strict=True)
        return max(100 * abs(one.share - cal.replay_of(case, RATES[-1], days, one)) for (case, _), one in pairs)

    # Our policy

    def ours(self) -> dict[tuple[Column, float], Estimate]:
        """Our policy on the whole site, by column and rate."""
        keys = [(column, rate) for column in Column for rate in RATES]
        worlds = [our_world(self.phases.at(column), rate) for column, rate in keys]
        found = self._shares("our policy on the whole site", worlds, self.effort.full, self.effort.full_seeds)
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

    def break_even(self, name: str, rate: float, target: float) -> float | None:
        """The duration (seconds) of a phase at which our policy just reaches `target` percent, by bisection.

        All tries meet the same failures. None: the target is missed even when the phase takes no time.
        """

        def reached(duration_s: float) -> float:
            world = our_world(self.phases.with_duration(name, duration_s), rate)
            (share,) = self._shares(f"break-even of {name} at r {rate:g}", [world], self._small(), 1)
            return share.percent

        low, high = 0.0, max(4.0 * self.phases[name], 4.0)
        if reached(low) < target:
            return None
        while reached(high) >= target and high < 3_600.0:
            low, high = high, 2.0 * high
        for _ in range(BREAK_EVEN_TRIES):
            middle = (low + high) / 2.0
            low, high = (middle, high) if reached(middle) >= target else (low, middle)
        return low

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
        scale = Scale(EQUIVALENT_NODES, 1, max(self.effort.small_days, 27.0) if self.effort.everything else 4.0)
        lines = []
        for rate in RATES:
            worlds = [replace(our_world(self.phases, rate), pool=round(NODES * share)) for share in POOLS]
            found = self._shares(f"spares at r {rate:g}", worlds, scale, 1)
            points = zip(POOLS, found, strict=True)
            lines.append(Series(f"r = {rate:g}", tuple((100.0 * pool, share.percent) for pool, share in points)))
        return lines


def _grouped(outcomes: Sequence[Outcome], size: int) -> list[Sequence[Outcome]]:
    return [outcomes[first : first + size] for first in range(0, len(outcomes), size)]


# Tables


def calibration_table(found: Sequence[Calibrated], effort: Effort) -> Table:
    """The simulator beside the exact formula."""
    rows = tuple(
        (
            item.case.title, f"{item.rate:g}", f"{item.exact:.2f}", f"{item.mean.percent:.2f}", f"{item.error:+.3f}",
            f"{item.mean.half_width:.3f}", str(item.plain), str(item.failures),
        )
        for item in found
    )  # fmt: skip
    note = (
        f"Gangs of {cal.GANG_NODES} nodes with one rank each and the failures of {NODES:,}, "
        f"{effort.calibration_seeds} runs of {effort.calibration_days:g} days a row; mean and its half width with the control "
        "variate, the plain mean of the runs beside them."
    )
    headers = ("case", "r", "formula %", "simulated %", "error", "95 % ±", "plain mean %", "failures")
    return Table("calibration", "The simulator against the exact renewal formula", headers, rows, note)


def trace_table(found: Sequence[tuple[PlainCase, float, Arrivals, Estimate]], apart: float) -> Table:
    """What bursts change. `apart`: greatest difference between simulator and recursion, points."""
    rows = tuple(
        (case.title, f"{rate:g}", str(kind), f"{points.percent:+.2f}", f"{points.half_width:.2f}")
        for case, rate, kind, points in found
    )
    note = (
        "trace: randomly shifted copies of the public trace; correlated: all copies shifted alike (stress). By the plain "
        f"recursion over {TRACE_SEEDS} x {TRACE_DAYS:g} days; the simulator on failures of the trace is within {apart:.3f} "
        "points of it."
    )
    headers = ("case", "r", "arrivals", "points against Poisson", "95 % ±")
    return Table("trace", "Failures in bursts against failures by chance", headers, rows, note)


def ours_table(found: Mapping[tuple[Column, float], Estimate], effort: Effort) -> Table:
    """Our policy by column and rate, with the goals and the floor."""
    floor = next(case for case in PLAIN_CASES if case.key == "c'")
    rows = tuple(
        (
            f"{rate:g}",
            *(str(found[column, rate]) for column in (Column.LOW, Column.EXPECTED, Column.HIGH)),
            f"{GOALS[rate]:g}" if rate in GOALS else "-",
            f"{100.0 * floor.ettr(mtbf_s(rate)):.2f}",
        )
        for rate in RATES
    )
    note = (
        f"{effort.full.words}, {effort.full_seeds} runs each. Low: every phase at its shortest; high: at its longest."
    )
    headers = ("r", "low durations %", "expected %", "high durations %", "goal (expected)", "physical floor %")
    return Table("ours", "Phalanx on 6,250 nodes of 8 accelerators", headers, rows, note)


def parts_table(found: Mapping[str, Estimate], rate: float, scale: Scale) -> Table:
    """What each part of our policy is worth."""
    base = found[""]
    rows = [("Phalanx", str(base), "-")]
    for name, (title, _) in CHANGES.items():
        share = found[name]
        rows.append((title, str(share), f"{share.percent - base.percent:+.2f}"))
    headers = ("policy or weather", "%", "points")
    return Table(f"parts-{rate:g}", f"What each part is worth at r {rate:g}", headers, tuple(rows), f"{scale.words}.")


def others_table(
    found: Mapping[tuple[str, float], Estimate], ours: Mapping[tuple[Column, float], Estimate], scale: Scale
) -> Table:
    """Others in our world, and published systems at their own figures."""
    rows = [("Phalanx", *(str(ours[Column.EXPECTED, rate]) for rate in RATES))]
    rows += [(title, *(str(found[name, rate]) for rate in RATES)) for name, (title, _) in OTHERS.items()]
    headers = ("policy", *(f"r {rate:g} %" for rate in RATES))
    note = f"Others: {scale.words}. All meet the same failures, rack losses and false alarms."
    return Table("others", "Against published ways to recover", headers, tuple(rows), note)


def published_table() -> Table:
    """What others say of themselves; nothing of it was run here."""
    rows = tuple((item.name, item.scale, item.percent, item.source) for item in PUBLISHED)
    note = "Other jobs, other rates, other definitions of effective time."
    headers = ("system", "scale", "%", "source")
    return Table("published", "Published systems at their own figures", headers, rows, note, simulated=False)


def break_even_table(found: Mapping[tuple[str, float], float | None], phases: Phases, scale: Scale) -> Table:
    """How long each assumed phase may take."""
    rows = tuple(
        (
            name, f"{phases[name]:g} s", f"{GOALS[rate]:g} % at r {rate:g}",
            "missed even at 0 s" if limit is None else f"{limit:.1f} s",
        )
        for (name, rate), limit in found.items()
    )  # fmt: skip
    headers = ("assumed phase", "expected", "goal", "reached within")
    return Table("break-even", "Break-even of the assumed phases", headers, rows, f"By bisection; {scale.words}.")


def assumed(phases: Phases) -> tuple[str, ...]:
    """Assumed phases that our policy goes through."""
    return phases.of_kind(Kind.ASSUMED)
