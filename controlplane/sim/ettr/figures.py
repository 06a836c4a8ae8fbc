"""All tables and charts of one campaign, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controlplane.sim.ettr import campaign as tabulate
from controlplane.sim.ettr.calibration import Calibrated, Estimate
from controlplane.sim.ettr.campaign import GOALS, RESTART_NODES, Campaign
from controlplane.sim.ettr.charts import Chart, rates_chart, spares_chart
from controlplane.sim.ettr.conduct import CAUSE_SHARE, CAUSE_SOURCE
from controlplane.sim.ettr.phases import Column
from controlplane.sim.ettr.policies import EQUIVALENT_NODES, FALSE_ALARMS, RACK_RATE, Scale
from controlplane.sim.ettr.tables import Table

TITLE = "Effective training time at 50,000 accelerators, simulated"


@dataclass(frozen=True, slots=True)
class Figures:
    """What a campaign found: text for the top, tables, charts, and the numbers that have ids."""

    lines: tuple[str, ...]
    tables: tuple[Table, ...]
    charts: tuple[Chart, ...]
    calibrated: tuple[Calibrated, ...]
    ours: Mapping[tuple[Column, float], Estimate]


def _lines() -> tuple[str, ...]:
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
            "repairs with median 20.4 h and mean 132.8 h."
        ),
    )


def collect(campaign: Campaign) -> Figures:
    """Run everything. With the small effort, break-evens and curves are left out or coarse."""
    effort, phases = campaign.effort, campaign.phases
    small = Scale(EQUIVALENT_NODES, 1, effort.small_days)
    calibrated = campaign.calibrate()
    ours = campaign.ours()
    rates = tuple(GOALS) if effort.everything else (3.8,)
    tables = [tabulate.ours_table(ours, effort), tabulate.calibration_table(calibrated, effort)]
    tables += [tabulate.parts_table(campaign.parts(rate), rate, small) for rate in rates]
    others = campaign.others()
    tables.append(tabulate.others_table(others, ours, Scale(RESTART_NODES, 1, effort.small_days)))
    tables.append(tabulate.published_table())
    if effort.everything:
        found = {
            (name, rate): campaign.break_even(name, rate, goal)
            for rate, goal in GOALS.items()
            for name in tabulate.assumed(phases)
        }
        tables.append(tabulate.break_even_table(found, phases, small))
        tables.append(tabulate.trace_table(campaign.traces(), campaign.trace_check()))
    charts = [rates_chart(campaign.over_rates())]
    if effort.everything:
        charts.append(spares_chart(campaign.over_spares()))
    return Figures(_lines(), tuple(tables), tuple(charts), tuple(calibrated), ours)
