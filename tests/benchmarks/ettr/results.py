"""Where the figures go: `.phalanx/bench/ettr*`, and with `--docs` into the pages that show them. Written after every part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from controlplane.sim.ettr import figures
from controlplane.sim.ettr.calibration import Estimate
from controlplane.sim.ettr.campaign import GOALS
from controlplane.sim.ettr.charts import save
from controlplane.sim.ettr.figures import Figures
from controlplane.sim.ettr.phases import Column
from controlplane.sim.ettr.renewal import RATES
from controlplane.sim.ettr.tables import Table
from controlplane.sim.report import html
from tests.benchmarks.ettr.page import filled
from tests.benchmarks.ettr.speed import DAYS
from tests.benchmarks.report import FOLDER, ROOT, Figure, commit, machine, write

IDS = {2.3: "ettr_r23", 3.8: "ettr_r38", 6.5: "ettr_r65"}
PEERS = {"ByteRobust (9,600 GPUs)": 97, "Meta FT-HSDP (100k GPUs)": 80}
PAGES = (ROOT / "README.md", ROOT / "docs" / "ettr.md", ROOT / "docs" / "benchmarks.md")
IMAGES = ROOT / "docs" / "images"
MOST_SPEED_S, MOST_SPEED_MIB = 60.0, 1_024.0
MOST_ERROR_POINTS = 0.5


def speed_table(speed: Mapping[str, float]) -> Table:
    """What the long run of all ranks took."""
    rows = (
        ("wall time", f"{speed['wall_s']:.1f} s"),
        ("CPU time", f"{speed['cpu_s']:.1f} s"),
        ("memory at most", f"{speed['peak_mib']:.0f} MiB"),
        ("turns of the controller", f"{speed['turns']:,.0f}"),
        ("recoveries", f"{speed['recoveries']:,.0f}"),
    )
    title = f"{speed['days']:g} days of 50,000 ranks on 6,250 nodes, r 3.8, one run in a process of its own"
    return Table("speed", title, ("", "measured"), rows, f"On {machine()}, at {commit()}.")


@dataclass(slots=True)
class Results:
    """`name` of the file of figures; `docs`: also fill the pages and their charts. `files`: what has been written."""

    name: str
    seed: int
    speed: Mapping[str, float]
    docs: bool = False
    files: tuple[Path, ...] = ()

    def put(self, found: Figures) -> None:
        """Write everything that is there by now."""
        folder = FOLDER / self.name
        folder.mkdir(parents=True, exist_ok=True)
        tables = (speed_table(self.speed), *found.tables)
        page = folder / "report.html"
        page.write_text(html(figures.TITLE, found.lines, tables, found.charts), encoding="utf-8")
        charts = [path for chart in found.charts for path in save(chart, folder)]
        simulated = ("everything but sim_54_days_s and sim_peak_mib",)
        json = write(self.name, self._figures(found), seed=self.seed, simulated=simulated)
        self.files = (json, page, *charts)
        if self.docs:
            for place in PAGES:
                place.write_text(filled(place.read_text(encoding="utf-8"), tables), encoding="utf-8")
            self.files += (*PAGES, *(path for chart in found.charts for path in save(chart, IMAGES)))

    def _figures(self, found: Figures) -> list[Figure]:
        shares = {rate: found.ours.get((Column.EXPECTED, rate)) for rate in RATES}
        result = [_of_policy(rate, share) for rate, share in shares.items() if share is not None]
        errors = [abs(item.error) for item in found.calibrated]
        if errors:
            worst = round(max(errors), 4)
            result.append(Figure("calibration_max_error_points", worst, "points", len(errors), must=MOST_ERROR_POINTS))
        whole = self.speed["days"] == DAYS
        name = "sim_54_days_s" if whole else "sim_quick_days_s"
        result.append(Figure(name, round(self.speed["wall_s"], 1), "s", 1, must=MOST_SPEED_S if whole else None))
        result.append(Figure("sim_peak_mib", round(self.speed["peak_mib"], 0), "MiB", 1, must=MOST_SPEED_MIB))
        return result


def _of_policy(rate: float, share: Estimate) -> Figure:
    spread = (round(share.percent - share.half_width, 3), round(share.percent + share.half_width, 3))
    return Figure(IDS[rate], round(share.percent, 3), "%", share.runs, spread, goal=GOALS.get(rate), peers=PEERS)
