"""`python -m tests.simulation MUTANT [--seeds 1-200]`: how many seeds the swarm needs to find a planted bug."""

from __future__ import annotations

import argparse
import sys
from itertools import islice

from cli.seeds import seed_span
from controlplane.sim.swarm.run import run_seed
from tests.simulation.mutants import MUTANTS, planted


def main() -> int:
    """Exit code 1 when a planted bug was not found."""
    arguments = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    arguments.add_argument("mutants", nargs="+", metavar="MUTANT", help=f"all, or some of {', '.join(MUTANTS)}")
    arguments.add_argument("--seeds", type=seed_span, default=range(1, 201), metavar="A-B")
    arguments.add_argument("--count", type=int, default=1, help="how many seeds that find it are wanted")
    chosen = arguments.parse_args()
    names = list(MUTANTS) if chosen.mutants == ["all"] else chosen.mutants
    missed = 0
    for name in names:
        with planted(name) as mutant:
            found = list(islice((result for result in map(run_seed, chosen.seeds) if not result.clean), chosen.count))
        right = [result for result in found if result.invariant in mutant.invariants]
        missed += not right
        seeds = ", ".join(f"{result.seed} ({result.invariant})" for result in found) or "none"
        sys.stdout.write(f"{name}: {seeds}{'' if not right else f': {right[0].text.splitlines()[0]}'}\n")
        sys.stdout.flush()
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
