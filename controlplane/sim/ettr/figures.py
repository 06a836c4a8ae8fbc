"""All tables and charts of one campaign, in the order in which they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from controlplane.sim.ettr import result_tables as tables
from controlplane.sim.ettr.calibration import Calibrated, Estimate
from controlplane.sim.ettr.campaign import GOALS, RESTART_NODES, Campaign, Effort
from controlplane.sim.ettr.charts import Chart, rates_chart, spares_chart
from controlplane.sim.ettr.conduct import CAUSE_SHARE, CAUSE_SOURCE
from controlplane.sim.ettr.phases import Column
from controlplane.sim.ettr.policies import EQUIVALENT_NODES, FALSE_ALARMS, RACK_RATE, Scale
from controlplane.sim.ettr.run import Repairs
from controlplane.sim.ettr.tables import Table

TITLE = "Effective training time at 50,000 accelerators, simulated"


@dataclass(frozen=True, slots=True)
class Figures:
    """What a campaign has found so far: text for the top, tables, charts, and the numbers that have ids."""

    lines: tuple[str, ...]
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    calibrated: tuple[Calibrated, ...] = ()
    ours: Mapping[tuple[Column, float], Estimate] = field(default_factory=dict)

    def with_table(self, table: Table) -> Figures:
        """These and one table more, or in place of an earlier form of it."""
        keys = [known.key for known in self.tables]
        if table.key not in keys:
            return replace(self, tables=(*self.tables, table))
        return replace(
            self, tables=tuple(table if key == table.key else t for key, t in zip(keys, self.tables, strict=True))
        )

    def with_chart(self, chart: Chart) -> Figures:
        """These and one chart more."""
        return replace(self, charts=(*self.charts, chart))


def _lines() -> tuple[str, ...]:
    repairs = Repairs()
    shares = ", ".join(f"{cause} {100 * share:.0f} %" for cause, share in CAUSE_SHARE.items())
    return (
        (
            "Everything here is simulated: the controller's real decisions (core.Machine through engine.turn) in virtual time. "
            "Durations of recovery phases come from recovery_phases.toml, where each has its source."
        ),
        (
            "Effective training time: steps that count at the end times the step time of 5 s, over wall time from the first step "
            "on. The modelled job's state is held by its data-parallel replicas, so that a failure costs the step it falls into; "
            "the row with memory copies shows a job whose state is not."
        ),
        (
            f"Failures by what can be seen of them: {shares} ({CAUSE_SOURCE}). Beside them: a rack lost {RACK_RATE:g} times in "
            f"1,000 rack-days (assumed), {FALSE_ALARMS:g} healthy node a day taken for a bad one (the most that is allowed), "
            f"repairs with median {repairs.median_h:g} h and mean {repairs.mean_h:g} h, after which one node in "
            f"{1 / repairs.again:g} faults again within a day."
        ),
    )


def _nobody(found: Figures) -> None:
    """Nobody waits for parts."""


def collect(campaign: Campaign, arrived: Callable[[Figures], None] = _nobody) -> Figures:
    """Run everything, what matters most first. With the small effort, break-evens, bursts and one curve are left out.

    Args:
        campaign: what to run, and how much of it.
        arrived: hears of all that is there after each part, so that nothing is lost when the rest is not waited for.
    """
    found = Figures(_lines())
    for part in _parts(campaign):
        found = part(found)
        arrived(found)
    return found


Part = Callable[[Figures], Figures]


def _parts(campaign: Campaign) -> Iterator[Part]:
    """What is run, in this order."""
    effort = campaign.effort
    rates = tuple(GOALS) if effort.everything else (3.8,)
    yield lambda found: _with_ours(found, campaign.ours(), effort)
    yield lambda found: _with_calibration(found, campaign.calibrate(), effort)
    yield lambda found: _with_ours(found, campaign.bounds(), effort)
    yield partial(_with_parts, campaign, rates[0])
    yield partial(_with_others, campaign)
    yield lambda found: found.with_chart(rates_chart(campaign.over_rates()))
    for rate in rates[1:]:
        yield partial(_with_parts, campaign, rate)
    if effort.everything:
        yield lambda found: found.with_chart(spares_chart(campaign.over_spares()))
        yield lambda found: found.with_table(
            tables.break_even_table(campaign.break_evens(), campaign.phases, _small(effort))
        )
        yield lambda found: found.with_table(tables.trace_table(campaign.traces(), campaign.trace_check()))


def _small(effort: Effort) -> Scale:
    return Scale(EQUIVALENT_NODES, 1, effort.small_days)


def _with_ours(found: Figures, shares: Mapping[tuple[Column, float], Estimate], effort: Effort) -> Figures:
    ours = {**found.ours, **shares}
    return replace(found, ours=ours).with_table(tables.ours_table(ours, effort))


def _with_calibration(found: Figures, calibrated: Sequence[Calibrated], effort: Effort) -> Figures:
    return replace(found, calibrated=tuple(calibrated)).with_table(tables.calibration_table(calibrated, effort))


def _with_parts(campaign: Campaign, rate: float, found: Figures) -> Figures:
    return found.with_table(tables.parts_table(campaign.parts(rate), rate, _small(campaign.effort)))


def _with_others(campaign: Campaign, found: Figures) -> Figures:
    scale = Scale(RESTART_NODES, 1, campaign.effort.small_days)
    others = tables.others_table(campaign.others(), found.ours, scale)
    return found.with_table(others).with_table(tables.published_table())
