"""Phases of a recovery by the number of ranks: measured at a few, fitted, and carried on to 50,000 by the fit alone."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from tests.benchmarks.recovery.runs import Cell, Fault, Results, Say, one_system
from tests.benchmarks.recovery.systems import RANK, Phalanx
from tests.benchmarks.recovery.workload import RANKS

SIZES = (2, 8, 16)
"""Beside the four ranks of the comparison; always on two nodes, one process standing by on each."""
KILLS = 3
FAR = 50_000
PHASES = ("detect", "decide", "place", "start", "rendezvous", "restore", "first_step")
WHOLE = "kill to new step"
PUBLISHED = (("FlashRecovery, 4,800 devices", "150 s"), ("ByteRobust, 16,384 devices", "46-65 s"))
"""As their papers print them, for whole recoveries."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Seconds = `base_s` + `doubling_s` * log2(ranks), by least squares. `residual_s`: how far the worst point lies from it."""

    base_s: float
    doubling_s: float
    residual_s: float

    def at(self, ranks: int) -> float:
        """What the fit says, in seconds."""
        return self.base_s + self.doubling_s * math.log2(ranks)


def fit(points: Mapping[int, float]) -> Fit:
    """Through seconds by number of ranks; at least two different numbers."""
    xs = [math.log2(ranks) for ranks in points]
    ys = list(points.values())
    mean_x, mean_y = fmean(xs), fmean(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    if not spread:
        raise ValueError("a fit needs at least two different numbers of ranks")
    doubling = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    base = mean_y - doubling * mean_x
    return Fit(base, doubling, max(abs(y - base - doubling * x) for x, y in zip(xs, ys, strict=True)))


def measure(folder: Path, seed: int, say: Say, sizes: Sequence[int] = SIZES) -> dict[int, Cell]:
    """Kills of one rank's training process at each size."""
    found = {}
    for ranks in sizes:
        say(f"{ranks} ranks")
        chance = random.Random(seed + ranks)
        results = Results()
        system = Phalanx(folder / f"ranks-{ranks}", ranks, warm_nodes=0, parked=1)
        system.kinds = (RANK,)
        one_system(system, [(RANK, Fault.draw(chance, ranks)) for _ in range(KILLS)], results, say)
        found[ranks] = results.cell(system.name, RANK)
    return found


def by_phase(cells: Mapping[int, Cell], comparison: Cell | None) -> dict[str, dict[int, float]]:
    """Median seconds of each phase, and of the whole, by number of ranks; sizes without a figure are left out."""
    all_cells = dict(cells) | ({RANKS: comparison} if comparison else {})
    whole = {ranks: cell for ranks, cell in sorted(all_cells.items()) if cell.recoveries and not cell.failure}
    table = {
        phase: {
            ranks: median(row.get(phase, 0.0) for row in cell.phases_s)
            for ranks, cell in whole.items()
            if cell.phases_s
        }
        for phase in PHASES
    }
    table[WHOLE] = {ranks: median(found.new_step_s for found in cell.recoveries) for ranks, cell in whole.items()}
    return table


def show(table: Mapping[str, Mapping[int, float]], say: Say) -> None:
    """The table, its fits, and what they would say far outside of it."""
    sizes = sorted(table[WHOLE])
    if len(sizes) < 2:
        return
    columns = "".join(f"{f'{ranks} ranks':>10}" for ranks in sizes)
    say("\nmedians in ms".ljust(22) + columns + f"{'fit: a + b log2 n':>22}{'residual':>10}{f'at {FAR:,}':>12}")
    for phase, points in table.items():
        if len(points) < 2:
            continue
        line = fit(points)
        cells = "".join(f"{points[ranks] * 1000:>10.0f}" if ranks in points else f"{'n/a':>10}" for ranks in sizes)
        formula = f"{line.base_s * 1000:.0f} {line.doubling_s * 1000:+.1f} log2 n"
        say(f"  {phase:<19}{cells}{formula:>22}{line.residual_s * 1000:>10.0f}{line.at(FAR) * 1000:>12.0f}")
    say(
        f"'at {FAR:,}' is an EXTRAPOLATION by {math.log2(FAR / max(sizes)):.0f} doublings, not a measurement: all ranks share this "
        "machine's cores, its network is loopback, nothing is read from storage."
    )
    say("published: " + "; ".join(f"{who} {what}" for who, what in PUBLISHED))
