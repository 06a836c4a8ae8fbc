"""Command line: `python -m tests.benchmarks.core`."""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Sequence
from statistics import median

from controlplane.core import events as ev
from tests.benchmarks.core import racks
from tests.benchmarks.core.site import BATCH, WIDTH, GangSite
from tests.benchmarks.report import Figure, of_samples, write

MUST_RECOVERY_MS = 25.0
GOAL_RECOVERY_MS = 10.0
RECOVERIES_54_DAYS = 2_200
"""Losses of nodes in 54 days of 6,250 nodes at 6.5 per 1,000 node-days."""
APART = 64
"""Nodes between one loss and the next, so that each takes another rack."""


def opened(nodes: int, ranks_per_node: int) -> tuple[GangSite, float]:
    """A site whose gang runs, and the seconds that it took to come there."""
    began = time.process_time()
    site = GangSite(nodes, ranks_per_node=ranks_per_node)
    site.open()
    return site, time.process_time() - began


def recoveries(site: GangSite, count: int) -> tuple[list[float], list[int]]:
    """CPU milliseconds of each recovery, and CPU microseconds of each of their turns."""
    whole: list[float] = []
    turns: list[int] = []
    for k in range(count):
        node = int(site.job.rank_node[(APART * (k + 1) * site.ranks_per_node) % site.job.spec.ranks])
        site.cpu_ns.clear()
        site.lose_node(node)
        whole.append(sum(site.cpu_ns) / 1e6)
        turns += [spent // 1000 for spent in site.cpu_ns]
        site.repair_node(node)
    return whole, turns


def quiet_ticks(site: GangSite, count: int = 200) -> list[float]:
    """CPU microseconds of ticks that decide nothing."""
    site.cpu_ns.clear()
    for _ in range(count):
        assert not site.turn(ev.Tick()).records
    return [spent / 1000 for spent in site.cpu_ns]


def parking(nodes: int, ranks_per_node: int, *, columns: bool) -> float:
    """CPU milliseconds to learn that all processes of a new gang have parked and to start its first generation."""
    site = GangSite(nodes, ranks_per_node=ranks_per_node)
    site.submit()
    reports = site.park_reports()
    site.cpu_ns.clear()
    if columns:
        site.park()
    else:
        for k in range(0, len(reports), BATCH):
            site.turn(*reports[k : k + BATCH])
    assert site.job.generation == 1
    return sum(site.cpu_ns) / 1e6


def saving(site: GangSite, step: int) -> float:
    """CPU milliseconds to learn that all ranks have saved a step, from a report of each node, and to commit the checkpoint."""
    reports = site.saved(step)
    site.cpu_ns.clear()
    for k in range(0, len(reports), BATCH):
        site.turn(*reports[k : k + BATCH])
    assert any(known.step == step and known.restorable for known in site.job.checkpoints.values())
    return sum(site.cpu_ns) / 1e6


def shown(label: str, samples: Sequence[float], unit: str) -> None:
    """One line of the table."""
    print(f"{label:58} {median(samples):9.1f} {min(samples):9.1f} {max(samples):9.1f} {unit}")


def main() -> None:
    """Measure, print, write the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.core", description=__doc__)
    parser.add_argument("--nodes", type=int, default=6_250)
    parser.add_argument("--recoveries", type=int, default=24)
    parser.add_argument("--profile", action="store_true", help="the recoveries of 8 ranks per node under cProfile")
    parser.add_argument("--racks", action="store_true", help="only this: one rack goes dark, then sixteen")
    args = parser.parse_args()
    if args.racks:
        racks.measure(args.nodes)
        return
    if args.profile:
        site, _ = opened(args.nodes, WIDTH)
        profiler = cProfile.Profile()
        profiler.runcall(recoveries, site, args.recoveries)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(30)
        return
    print(
        f"one job on {args.nodes} nodes of {WIDTH} accelerators; simulated: everything but the controller's own CPU time"
    )
    print(f"{'':58} {'median':>9} {'least':>9} {'most':>9}")
    figures: list[Figure] = []
    for ranks in (WIDTH, 1):
        site, opening_s = opened(args.nodes, ranks)
        whole, turns = recoveries(site, args.recoveries)
        what = f"{ranks} rank{'s' * (ranks > 1)} per node"
        shown(f"{what}: a node's loss to the first new step", whole, "ms")
        shown(f"{what}: one turn of those", turns, "us")
        shown(f"{what}: a tick that decides nothing", quiet_ticks(site), "us")
        saves = [saving(site, 100 * k) for k in range(1, 4)]
        shown(f"{what}: a checkpoint, a report per node", saves, "ms")
        shown(f"{what}: all nodes say hello, the gang comes to run", [opening_s * 1000], "ms")
        shown(f"{what}: processes parked, one event", [parking(args.nodes, ranks, columns=True)], "ms")
        reports = [parking(args.nodes, ranks, columns=False) for _ in range(3)]
        shown(f"{what}: processes parked, a report per node", reports, "ms")
        print(
            f"{'':4}{RECOVERIES_54_DAYS} recoveries, 54 days at r 6.5: {RECOVERIES_54_DAYS * median(whole) / 1000:.1f} s"
        )
        if ranks == WIDTH:
            figures.append(of_samples("recovery_cpu_ms", whole, "ms", must=MUST_RECOVERY_MS, goal=GOAL_RECOVERY_MS))
            figures.append(of_samples("turn_us", turns, "us"))
            figures.append(of_samples("park_reports_ms", reports, "ms"))
            figures.append(of_samples("checkpoint_reports_ms", saves, "ms"))
    print(f"written to {write('core', figures, simulated=('nodes', 'ranks', 'faults', 'journal'))}")


if __name__ == "__main__":
    main()
