"""The picture: loss of both runs over the step, the faults, and where the time of each recovery went."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.demo.evidence import PHASES, Evidence, Run
from cli.demo.script import DISTURBED, REFERENCE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#4e79a7", "#a0cbe8", "#f28e2b", "#ffbe7d", "#59a14f", "#8cd17d", "#b6992d")


def draw(evidence: Evidence, png: Path, cache: Path) -> str:
    """Writes the PNG and returns the same picture as SVG text for the page. `cache`: where matplotlib keeps its own."""
    os.environ.setdefault("MPLCONFIGDIR", str(cache))
    import matplotlib as mpl  # noqa: PLC0415 - a second to import, and only the demo draws

    mpl.use("Agg")
    mpl.rcParams.update({"font.size": 9, "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False})
    from matplotlib import pyplot  # noqa: PLC0415

    figure, (top, bottom) = pyplot.subplots(2, 1, figsize=(9, 6.2), height_ratios=(3, 1.3), layout="constrained")
    _losses(top, evidence)
    _timeline(bottom, evidence.runs[DISTURBED])
    same = "equal" if evidence.identical else "NOT EQUAL"
    hashes = "\n".join(f"{name:<12} SHA-256 {evidence.runs[name].sha256}" for name in (REFERENCE, DISTURBED))
    figure.suptitle(
        f"Weights, buffers and optimizer state of both runs are {same}\n{hashes}", fontsize=9, family="monospace"
    )
    figure.savefig(png, dpi=140)
    text = io.StringIO()
    figure.savefig(text, format="svg")
    pyplot.close(figure)
    return text.getvalue()[text.getvalue().index("<svg") :]


def _losses(axes: Axes, evidence: Evidence) -> None:
    reference, disturbed = evidence.runs[REFERENCE], evidence.runs[DISTURBED]
    axes.plot(*_line(reference), color="#bbbbbb", linewidth=4, label="undisturbed", solid_capstyle="round")
    generations = sorted({point.generation for point in disturbed.curve})
    for index, generation in enumerate(generations):
        points = [point for point in disturbed.curve if point.generation == generation]
        label = "disturbed" if index == 0 else None
        axes.plot([p.step for p in points], [p.loss for p in points], color="#c0392b", linewidth=1.1, label=label)
    for index, recovery in enumerate(one for one in disturbed.job.recoveries if one.steps_lost):
        label = "lost and done again" if index == 0 else None
        first, last = recovery.restore_step, recovery.restore_step + recovery.steps_lost
        axes.axvspan(first, last, color="#f5c6c0", linewidth=0, label=label)
    for fault in evidence.faults:
        axes.axvline(fault["step"], color="#333333", linewidth=0.8, linestyle="--")
        word = "rank killed" if fault["kind"] == "kill-rank" else "node destroyed"
        axes.annotate(
            f" {word}\n after step {fault['step']}",
            (fault["step"], 0.97),
            xycoords=("data", "axes fraction"),
            va="top",
            fontsize=8,
        )
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per byte)")
    axes.legend(frameon=False, loc="lower left")


def _line(run: Run) -> tuple[list[int], list[float]]:
    return [point.step for point in run.curve], [point.loss for point in run.curve]


def _timeline(axes: Any, run: Run) -> None:
    for row, recovery in enumerate(run.job.recoveries):
        left = 0.0
        for phase, colour in zip(PHASES, COLOURS, strict=True):
            width = recovery.phases_s.get(phase, 0.0)
            axes.barh(row, width, left=left, color=colour, label=phase.replace("_", " ") if row == 0 else None)
            left += width
        axes.text(left, row, f"  {recovery.rung}, {recovery.steps_lost} steps done again", va="center", fontsize=8)
    axes.set_yticks(range(len(run.job.recoveries)), [f"generation {r.generation}" for r in run.job.recoveries])
    axes.invert_yaxis()
    axes.margins(x=0.35)
    axes.set_xlabel("seconds from the fault to the first new step")
    axes.legend(frameon=False, ncols=7, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0))
