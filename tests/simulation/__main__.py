"""`python -m tests.simulation MUTANT [--seeds 1-200]`: how many seeds the swarm needs to find a planted bug."""

from __future__ import annotations

import argparse
import sys

from cli.seeds import seed_span
from controlplane.sim.swarm.run import run_seed
from tests.simulation.mutants import MUTANTS, planted


def main() -> int:
    """Exit code 1 when a planted bug was not found."""
    arguments = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    arguments.add_argument("mutants", nargs="+", metavar="MUTANT", help=f"all, or some of {', '.join(MUTANTS)}")
    arguments.add_argument("--seeds", type=seed_span, default=range(1, 201), metavar="A-B")
    chosen = arguments.parse_args()
    names = list(MUTANTS) if chosen.mutants == ["all"] else chosen.mutants
    missed = 0
    for name in names:
        with planted(name) as mutant:
            found = next((result for result in map(run_seed, chosen.seeds) if not result.clean), None)
        if found is None:
            missed += 1
            sys.stdout.write(f"{name}: not found by seeds {chosen.seeds.start}-{chosen.seeds.stop - 1}\n")
            continue
        expected = "" if found.invariant in mutant.invariants else f" (expected {', '.join(mutant.invariants)})"
        sys.stdout.write(f"{name}: seed {found.seed}, {found.invariant}{expected}: {found.text.splitlines()[0]}\n")
        sys.stdout.flush()
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
