"""All figures of effective training time. `--quick`: fewer and shorter runs, about a minute. What is there is written after
each part: a run that is stopped leaves what it had."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from cli.commands.sim_ettr import show
from cli.options import Output
from controlplane.sim.ettr import figures
from controlplane.sim.ettr.campaign import FULL, QUICK, Campaign
from controlplane.sim.ettr.figures import Figures
from controlplane.sim.ettr.phases import load
from controlplane.sim.ettr.runner import Runner
from tests.benchmarks.ettr.results import Results, speed_table
from tests.benchmarks.ettr.speed import DAYS, apart

QUICK_DAYS = 3.0
SEED = 1
SAY_EVERY_S = 15.0


class Spoken:
    """Says how far it is, in lines: at the begin and the end of each set of runs, and now and then in between."""

    def __init__(self) -> None:
        self._begun_s = self._said_s = time.monotonic()

    def told(self, what: str, done: int, total: int) -> None:
        """So many runs of so many have ended."""
        now_s = time.monotonic()
        if done in (0, total) or now_s - self._said_s >= SAY_EVERY_S:
            self._said_s = now_s
            print(f"{now_s - self._begun_s:6.0f} s  {what}: {done} of {total} runs", flush=True)


def main(arguments: Sequence[str]) -> None:
    """Measure the speed first, alone; then everything else, on all cores."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.ettr", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs")
    parser.add_argument("--speed-only", action="store_true", help="only the 54 days of 50,000 ranks")
    parser.add_argument("--docs", action="store_true", help="also put tables and charts into README.md and docs/")
    options = parser.parse_args(arguments)
    if options.docs and (options.quick or options.speed_only):
        parser.error("--docs needs all figures: leave --quick and --speed-only out")
    spoken = Spoken()
    speed = apart(QUICK_DAYS if options.quick else DAYS)
    show([speed_table(speed)], Output.TABLE)
    if options.speed_only:
        return
    results = Results("ettr-quick" if options.quick else "ettr", SEED, speed, docs=options.docs)
    shown: set[str] = set()

    def arrived(found: Figures) -> None:
        results.put(found)
        fresh = [table for table in found.tables if table.key not in shown]
        shown.update(table.key for table in fresh)
        show(fresh, Output.TABLE)

    with Runner(0, spoken.told) as runner:
        found = figures.collect(Campaign(load(), QUICK if options.quick else FULL, runner, SEED), arrived)
    show([table for table in found.tables if table.key == "ours"], Output.TABLE)
    print("\nwritten: " + ", ".join(map(str, results.files)))
    spoken.told("all figures", 1, 1)


if __name__ == "__main__":
    main(sys.argv[1:])
