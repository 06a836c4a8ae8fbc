"""The tables of a campaign: what the reader of a report, of the page and of the terminal sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from controlplane.sim.ettr import calibration as cal
from controlplane.sim.ettr.calibration import Calibrated, Estimate
from controlplane.sim.ettr.campaign import BURSTS, GOALS, TRACE_DAYS, TRACE_SEEDS, Effort
from controlplane.sim.ettr.phases import Column, Phases
from controlplane.sim.ettr.policies import CHANGES, EQUIVALENT_NODES, OTHERS, PUBLISHED, Scale
from controlplane.sim.ettr.renewal import NODES, PLAIN_CASES, RATES, PlainCase, mtbf_s
from controlplane.sim.ettr.run import Arrivals
from controlplane.sim.ettr.tables import Table


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


BURST_WORDS: Mapping[Arrivals, str] = {
    Arrivals.TRACE: "trace",
    Arrivals.ONCE: "bursts once",
    Arrivals.CORRELATED: "correlated",
}


def trace_table(found: Mapping[tuple[PlainCase, Arrivals, float], Estimate], apart: float) -> Table:
    """What bursts change. `apart`: greatest difference between simulator and recursion, points."""
    columns = [(kind, rate) for kind in BURSTS for rate in RATES]
    rows = tuple(
        (
            case.title,
            *(f"{found[case, *column].percent:+.2f} ± {found[case, *column].half_width:.2f}" for column in columns),
        )
        for case in PLAIN_CASES
    )
    note = (
        "Points against the formula at the same mean rate. trace: randomly shifted copies of the public trace; bursts once: "
        "the same, but faults within five minutes of the one before left out; correlated: all copies shifted alike (stress). "
        f"By the plain recursion over {TRACE_SEEDS} x {TRACE_DAYS:g} days; the simulator on failures of the trace is within "
        f"{apart:.3f} points of it."
    )
    headers = ("case", *(f"{BURST_WORDS[kind]}, r {rate:g}" for kind, rate in columns))
    return Table("trace", "Failures in bursts against failures by chance", headers, rows, note)


def ours_table(found: Mapping[tuple[Column, float], Estimate], effort: Effort) -> Table:
    """Our policy by column and rate, with the goals and the floor."""
    floor = next(case for case in PLAIN_CASES if case.key == "c'")
    rows = tuple(
        (
            f"{rate:g}",
            *(str(found.get((column, rate), "-")) for column in (Column.LOW, Column.EXPECTED, Column.HIGH)),
            f"{GOALS[rate]:g}" if rate in GOALS else "-",
            f"{100.0 * floor.ettr(mtbf_s(rate)):.2f}",
        )
        for rate in RATES
    )
    small = Scale(EQUIVALENT_NODES, 1, effort.small_days)
    note = (
        f"Expected: {effort.full.words}, {effort.full_seeds} runs. Low: every phase at its shortest, high: at its longest; "
        f"{small.words}, {effort.small_seeds} runs."
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
    note = f"One at a time, the others as expected; {scale.words}."
    return Table("break-even", "Break-even of the assumed phases", headers, rows, note)
