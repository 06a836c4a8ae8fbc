"""`make bench-fleet`: 6,250 real sessions to one real controller, and how fast and how rightly it sees what becomes of them."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.benchmarks.fleet import peers, recoveries, relays, restart, scenarios, soak
from tests.benchmarks.fleet.scenarios import Bench, Load, Verdicts, percentile
from tests.benchmarks.fleet.site import CONTROLLER_CORE, Generator, make_site, pin, sample
from tests.benchmarks.fleet.watch import Watch
from tests.benchmarks.report import ROOT, Figure, commit, machine, write

NODES = 6_250
FIRST_S = 2.0
"""All nodes have beaten once."""
NEVER_MS = 1e9
"""In place of when something was shown that was not."""
SIMULATED = ("accelerators", "nodes: sessions of one generator process over real connections", "cells' reports")


def sensitivity(bench: Bench, nodes: int) -> list[Figure]:
    """How soon deaths and silences are known."""
    resets = scenarios.resets(bench, min(200, nodes // 4))
    one = scenarios.silences(bench, [[name] for name in bench.draw(min(30, nodes // 8), "one")], 0.3)
    thousand = scenarios.silences(bench, [bench.draw(min(1_000, nodes // 4), "thousand")], 0.0)
    acts, unknown = scenarios.scattered(bench, min(1_000, nodes // 4))
    print(f"scattered silence of {min(1_000, nodes // 4)} nodes: {acts} acts, {unknown} UNKNOWN")
    return [
        _times("reset_detect_p99_ms", resets, must=200, goal=50),
        _times("silent_detect_p99_ms", one, must=250, goal=100),
        _times("silent_1000_detect_p99_ms", thousand, must=250, goal=100),
        Figure("scattered_acts", acts, "acts", 1, must=0, goal=0),
    ]


def rightness(bench: Bench) -> list[Figure]:
    """Disturbances, with true deaths among them."""
    runs: list[Verdicts] = []
    for name, disturb in (
        ("controller stopped 1.5 s", scenarios.stopped(1.5)),
        ("controller stopped 5 s", scenarios.stopped(5.0)),
        ("machine starved", scenarios.starved(20.0)),
        ("20 % of beats 2 s late", scenarios.delayed(0.2, 2.0, 15.0)),
        ("append stalled 3 s", scenarios.append_stalled(3.0)),
    ):
        found = scenarios.disturbed(bench, name, disturb)
        shown = "not shown" if found.shown_ms is None else f"shown after {found.shown_ms:.0f} ms"
        told = f"false {found.false}, missed {found.missed}, worst {found.worst_s:.2f} s, degraded {shown}"
        print(f"{name:<28} {told}", flush=True)
        runs.append(found)
    return [
        Figure("false_deaths", sum(run.false for run in runs), "nodes", len(runs), must=0, goal=0),
        Figure("true_deaths_missed", sum(run.missed for run in runs), "nodes", len(runs), must=0, goal=0),
        _shown([NEVER_MS if run.shown_ms is None else run.shown_ms for run in runs]),
    ]


def _shown(shown_ms: Sequence[float]) -> Figure:
    """The slowest of all disturbances; one that was not shown at all is slower than any limit."""
    spread = (round(min(shown_ms), 1), round(max(shown_ms), 1))
    return Figure("degraded_shown_ms", spread[1], "ms", len(shown_ms), spread, must=1_000)


def _times(name: str, values: Sequence[float], *, must: float, goal: float) -> Figure:
    spread = (round(min(values), 1), round(max(values), 1))
    return Figure(name, round(percentile(values, 0.99), 1), "ms", len(values), spread, must, goal)


def _of_load(found: Load) -> list[Figure]:
    print(
        f"{found.seconds:.0f} s: sent {found.sent:,}, heard {found.heard:,}; lag p50 {found.lag_p50_ms:.1f} ms, p99 "
        f"{found.lag_p99_ms:.1f} ms; controller {found.share:.2f} of a core, {found.rss_mb:.0f} MB; generator "
        f"{found.generator_share:.2f} of a core, {found.generator_late_p99_ms:.1f} ms late (p99)"
    )
    return [
        Figure("direct_lag_p99_ms", round(found.lag_p99_ms, 2), "ms", found.heard, must=100, goal=40),
        Figure("direct_cpu", round(found.share, 3), "cores", 1, must=0.90, goal=0.75),
        Figure("direct_missed", found.sent - found.heard, "beats", found.sent, must=0, goal=0),
        Figure("generator_cpu", round(found.generator_share, 3), "cores", 1),
        Figure("generator_late_p99_ms", round(found.generator_late_p99_ms, 2), "ms", found.sent),
        Figure("controller_mb", round(found.rss_mb, 1), "MB", 1, must=1_500, goal=1_000),
    ]


def show(figures: Sequence[Figure]) -> list[str]:
    """The table; returns what is above its limit."""
    print(f"\n{'figure':<28}{'value':>12}  {'unit':<7}{'n':>10}{'must':>9}{'goal':>9}")
    for figure in figures:
        limits = "".join(f"{'' if limit is None else format(limit, 'g'):>9}" for limit in (figure.must, figure.goal))
        others = ", ".join(f"{name} {value:,}" for name, value in figure.peers.items())
        print(
            f"{figure.id:<28}{figure.value:>12,.2f}  {figure.unit:<7}{figure.n:>10,}{limits}{f'   ({others})' if others else ''}"
        )
    return [figure.id for figure in figures if figure.must is not None and figure.value > figure.must]


def streams(options: argparse.Namespace) -> list[Figure]:
    """One stream per node: load, detection, false convictions, on one site without jobs."""
    return _connected(
        options,
        lambda bench: [
            *_of_load(scenarios.load(bench, options.seconds)),
            *sensitivity(bench, options.nodes),
            *rightness(bench),
        ],
    )


def disturbances(options: argparse.Namespace) -> list[Figure]:
    """What disturbs the controller, and nothing else."""
    return _connected(options, rightness)


def _connected(options: argparse.Namespace, measure: Callable[[Bench], list[Figure]]) -> list[Figure]:
    """All nodes are connected and beat; what connecting took, and what was measured then."""
    folder = Path(tempfile.mkdtemp(prefix="phx-fleet-"))
    names = tuple(f"node-{number:04d}" for number in range(options.nodes))
    controller = make_site(
        folder, options.nodes, tls=not options.plaintext, lease_ms=3_000, beat_ms=1_000, journal_busy_ms=5_000
    )
    controller.start()
    assert controller.process is not None
    pid = controller.process.pid
    pin(pid, CONTROLLER_CORE)
    generator = Generator(folder)
    try:
        idle = sample(pid)
        took = generator.ask("connect")
        connected = sample(pid)
        generator.ask("cells")
        kb = (connected.rss_mb - idle.rss_mb) * 1_000 / options.nodes
        print(
            f"{options.nodes:,} sessions open in {took['took_s']:.1f} s; {connected.cpu_s - idle.cpu_s:.1f} s of the "
            f"controller's processor; {kb:.0f} kB each"
        )
        generator.ask("beats", interval_s=1.0)
        time.sleep(FIRST_S)
        watch = Watch(controller)
        bench = Bench(controller, generator, watch, names, options.seed)
        figures = [
            Figure("stream_kb", round(kb, 1), "kB", options.nodes, must=130, goal=100),
            Figure("connect_s", round(took["took_s"], 2), "s", 1),
            *measure(bench),
        ]
        watch.close()
    finally:
        generator.close()
        controller.close()
        shutil.rmtree(folder, ignore_errors=True)
    return figures


PARTS = {
    "streams": streams,
    "disturbances": disturbances,
    "relays": relays.measure,
    "recoveries": recoveries.measure,
    "relayed-recoveries": recoveries.measure_relayed,
    "restart": restart.measure,
    "peers": peers.measure,
    "soak": soak.measure,
}
ALONE = {"soak", "relayed-recoveries", "disturbances"}
"""Parts that are measured only when they are asked for."""


def main() -> int:
    """Measures, prints, writes; exit status 1 when a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long the beats are measured (default: 300)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=50_000, help="of the gang that loses racks (default: 50000)")
    parser.add_argument("--swaps", type=int, default=5, help="racks that are replaced one after the other (default: 5)")
    parser.add_argument("--records", type=int, default=1_000_000, help="of the restarted journal (default: 1000000)")
    parser.add_argument("--soak-seconds", type=float, default=1_800.0, help="of the soak (default: 1800)")
    default = ",".join(part for part in PARTS if part not in ALONE)
    parser.add_argument(
        "--only", default=default, help=f"of {', '.join(PARTS)}, with commas between (default: {default})"
    )
    parser.add_argument("--plaintext", action="store_true", help="no TLS, for comparison")
    options = parser.parse_args()
    print(f"machine {machine()}; commit {commit()}; seed {options.seed}; simulated: {', '.join(SIMULATED)}")
    figures: list[Figure] = []
    written = ROOT
    for name, part in PARTS.items():
        if name in options.only.split(","):
            print(f"\n{name}: {(part.__doc__ or '').splitlines()[0]}", flush=True)
            figures = peers.beside([*figures, *part(options)])
            kept = "fleet-soak" if options.only == "soak" else "fleet"
            written = write(kept, figures, seed=options.seed, simulated=SIMULATED)  # a later part may fail
    late = show(figures)
    print(f"\nwritten to {written.relative_to(ROOT)}")
    for name in late:
        print(f"{name} is above its limit")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
