"""`python -m tests.benchmarks.recovery`: exit 0 when every figure of Phalanx keeps to its limit, else 1."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.recovery import scaling
from tests.benchmarks.recovery.report import OURS, show, within_must, write
from tests.benchmarks.recovery.runs import compare
from tests.benchmarks.recovery.systems import RANK, Phalanx, RayTrain, System, Torchft, Torchrun, missing

ALL = (Phalanx, Torchrun, RayTrain, Torchft)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.recovery")
    parser.add_argument("--kills", type=int, default=7, help="of every kind on every system (default %(default)s)")
    parser.add_argument("--blocks", type=int, default=3, help="starts of every system (default %(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="two kills in one block, no scaling: to try it, not to report"
    )
    parser.add_argument("--seed", type=int, default=7, help="order, ranks and moments of the kills")
    parser.add_argument("--only", choices=[system.name for system in ALL], action="append", help="leave the others out")
    options = parser.parse_args()
    kills, blocks = (2, 1) if options.quick else (options.kills, options.blocks)
    folder = Path(tempfile.mkdtemp(prefix="phx-bench-"))
    chosen = [system for system in ALL if not options.only or system.name in options.only]
    absent = {system.name: reason for system in chosen if (reason := missing(system))}
    scale = Phalanx in chosen and not options.quick
    systems: list[System] = [system(folder / system.name) for system in chosen if system.name not in absent]
    try:
        results = compare(systems, kills, blocks, options.seed, _say)
        sizes = scaling.measure(folder, options.seed, _say) if scale else {}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, reason in absent.items():
        results.cell(name, RANK).failure = reason
    show(results, systems, options.seed, _say)
    phases = scaling.by_phase(sizes, results.cells.get((OURS, RANK)))
    scaling.show(phases, _say)
    # A try never takes the place of the figures of a whole run.
    whole = len(chosen) == len(ALL) and not options.quick
    _say(f"written: {write(results, options.seed, 'recovery' if whole else 'recovery-try', phases)}")
    return 0 if within_must(results) else 1


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
