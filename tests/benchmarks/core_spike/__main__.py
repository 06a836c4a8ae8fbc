"""Command line."""

import argparse
import cProfile
import json
import pstats

from tests.benchmarks import core_spike
from tests.benchmarks.core_spike.report import report
from tests.benchmarks.core_spike.run import Options, simulate


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.core_spike", description=core_spike.__doc__)
    parser.add_argument("--days", type=float, default=54.0)
    parser.add_argument("--nodes", type=int, default=6250)
    parser.add_argument("--spares", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--representation", choices=("columns", "objects"), default="columns")
    parser.add_argument("--turn", choices=("fork", "inplace"), default="fork")
    parser.add_argument("--compare-days", type=float, default=0.5, help="horizon of the four-way comparison")
    parser.add_argument("--dense", action="store_true", help="sweep every 0.5 s, also when nothing can be late")
    parser.add_argument("--json", action="store_true", help="one run, figures as JSON, no comparison")
    parser.add_argument("--profile", action="store_true", help="one run under cProfile")
    args = parser.parse_args()
    options = Options(args.days, args.nodes, args.spares, args.seed, args.representation, args.turn, args.dense)
    if args.profile:
        profiler = cProfile.Profile()
        profiler.runcall(simulate, options)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
    elif args.json:
        print(json.dumps(simulate(options)))
    else:
        report(options, args.compare_days)


if __name__ == "__main__":
    main()
