"""All figures of effective training time. `--quick`: fewer and shorter runs, under a minute. Writes ettr.json, charts, a report."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from cli.commands.sim_ettr import show
from cli.ettr_progress import RunsProgress
from cli.options import Output
from controlplane.sim.ettr import figures
from controlplane.sim.ettr.calibration import Estimate
from controlplane.sim.ettr.campaign import FULL, GOALS, QUICK, Campaign
from controlplane.sim.ettr.charts import save
from controlplane.sim.ettr.figures import Figures
from controlplane.sim.ettr.phases import Column, load
from controlplane.sim.ettr.renewal import RATES
from controlplane.sim.ettr.runner import Runner
from controlplane.sim.report import html
from tests.benchmarks.ettr.speed import DAYS, apart
from tests.benchmarks.report import FOLDER, Figure, write

QUICK_DAYS = 3.0
SEED = 1
IDS = {2.3: "ettr_r23", 3.8: "ettr_r38", 6.5: "ettr_r65"}
PEERS = {"ByteRobust (9,600 GPUs)": 97, "Meta FT-HSDP (100k GPUs)": 80}


def of_policy(rate: float, share: Estimate) -> Figure:
    spread = (round(share.percent - share.half_width, 3), round(share.percent + share.half_width, 3))
    return Figure(IDS[rate], round(share.percent, 3), "%", share.runs, spread, goal=GOALS.get(rate), peers=PEERS)


def all_figures(found: Figures, speed: dict[str, float]) -> list[Figure]:
    errors = [abs(item.error) for item in found.calibrated]
    result = [of_policy(rate, found.ours[Column.EXPECTED, rate]) for rate in RATES]
    result.append(Figure("calibration_max_error_points", round(max(errors), 4), "points", len(errors), must=0.5))
    whole = speed["days"] == DAYS
    name = "sim_54_days_s" if whole else "sim_quick_days_s"
    result.append(Figure(name, round(speed["wall_s"], 1), "s", 1, must=60.0 if whole else None))
    result.append(Figure("sim_peak_mib", round(speed["peak_mib"], 0), "MiB", 1, must=1_024.0))
    return result


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--speed-only", action="store_true", help="only the 54 days of 50,000 ranks")
    options = parser.parse_args(arguments)
    begun_s = time.monotonic()
    speed = apart(QUICK_DAYS if options.quick else DAYS)
    said = ", ".join(f"{name} {value:,.1f}" for name, value in speed.items())
    print(f"50,000 ranks on 6,250 nodes (simulated): {said}", flush=True)
    if options.speed_only:
        return
    progress = RunsProgress()
    try:
        with Runner(0, progress.show) as runner:
            found = figures.collect(Campaign(load(), QUICK if options.quick else FULL, runner, SEED))
    finally:
        progress.close()
    show(list(found.tables), Output.TABLE)
    folder = FOLDER / "ettr"
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    page.write_text(html(figures.TITLE, found.lines, found.tables, found.charts), encoding="utf-8")
    files = [page, *(path for chart in found.charts for path in save(chart, folder))]
    name = "ettr-quick" if options.quick else "ettr"
    files.append(
        write(name, all_figures(found, speed), seed=SEED, simulated=["everything but sim_54_days_s and sim_peak_mib"])
    )
    print("\nwritten: " + ", ".join(str(path) for path in files))
    print(f"took {time.monotonic() - begun_s:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
