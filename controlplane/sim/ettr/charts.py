"""Charts of effective training time as PNG and SVG. matplotlib is part of the extra `demo` and imported only here, when drawn."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.sim.ettr.campaign import Series

SIZE_INCHES = (8.0, 4.8)
DOTS_PER_INCH = 130


SHOWN_PERCENT = (0.0, 50.0, 70.0, 80.0, 90.0, 95.0, 97.0, 98.0, 99.0, 99.5, 99.7, 99.9)
"""Marks of the axis. What is lost is drawn on a scale of factors: else everything good would lie on one line at the top."""
LEAST_LOST = 0.05
"""Percent; less is drawn as this."""


class NoCharts(Exception):
    """matplotlib is not installed."""

    def __init__(self) -> None:
        super().__init__("charts need matplotlib: pip install 'phalanx[demo]'")


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines of percent over something."""

    name: str
    title: str
    x_label: str
    series: tuple[Series, ...]


def rates_chart(series: Sequence[Series]) -> Chart:
    """Effective time over the failure rate."""
    return Chart(
        "ettr-over-rate", "Effective training time of 6,250 nodes x 8 over the failure rate (simulated)",
        "job-stopping failures per 1,000 node-days", tuple(series),
    )  # fmt: skip


def spares_chart(series: Sequence[Series]) -> Chart:
    """Effective time over the nodes beside the job."""
    return Chart(
        "ettr-over-spares", "Effective training time of 6,250 nodes x 8 over spare nodes (simulated)",
        "nodes beside the job, % of its nodes (those in repair come out of them)", tuple(series),
    )  # fmt: skip


def draw(chart: Chart, kind: str) -> bytes:
    """A chart as `png` or `svg`.

    Raises:
        NoCharts: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise NoCharts from error
    figure: Any = Figure(figsize=SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for line in chart.series:
        xs, ys = zip(*line.points, strict=True)
        lost = [max(100.0 - percent, LEAST_LOST) for percent in ys]
        axes.plot(xs, lost, marker="o", markersize=4, label=line.name)
    axes.set_title(chart.title, fontsize=11)
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel("effective training time, % (by factors of what is lost)")
    axes.set_yscale("log")
    axes.invert_yaxis()
    axes.set_yticks(
        [100.0 - percent for percent in SHOWN_PERCENT], labels=[f"{percent:g}" for percent in SHOWN_PERCENT]
    )
    axes.minorticks_off()
    axes.grid(visible=True, alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    target = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(target, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
    return target.getvalue()


def save(chart: Chart, folder: Path) -> list[Path]:
    """Write a chart as PNG and SVG and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for kind in ("png", "svg"):
        path = folder / f"{chart.name}.{kind}"
        path.write_bytes(draw(chart, kind))
        files.append(path)
    return files
