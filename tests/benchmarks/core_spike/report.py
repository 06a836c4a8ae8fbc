"""The printed table: the runs that are compared, and that they agree."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.core_spike.checks import require
from tests.benchmarks.core_spike.codes import RACK_NODES
from tests.benchmarks.core_spike.run import Options, simulate
from tests.benchmarks.core_spike.world import (
    CRASHES,
    DEVICE_FAULTS,
    NODE_FAULTS,
    RACK_FAULT_DAYS,
    REPAIR_MEAN_H,
    REPAIR_MEDIAN_H,
)

ROOT = Path(__file__).parents[3]


def child(options: Options) -> dict[str, Any]:
    """The same run in a fresh process, so that memory and hash seed are its own."""
    argv = [sys.executable, "-m", __package__, "--json", "--days", str(options.days), "--nodes", str(options.nodes),
            "--spares", str(options.spares), "--seed", str(options.seed), "--turn", options.turn,
            "--representation", options.representation]  # fmt: skip
    done = subprocess.run(argv + ["--dense"] * options.dense, capture_output=True, text=True, check=True, cwd=ROOT)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def machine_facts() -> dict[str, Any]:
    """What the figures were measured on."""
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cores": os.cpu_count(), "ram_gib": round(ram, 1), "python": platform.python_version(),
            "numpy": np.__version__}  # fmt: skip


def commit() -> str:
    """The commit the tree is at, or "none" before the first."""
    argv = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout.strip() if done.returncode == 0 else "none"


def row(label: str, r: dict[str, Any]) -> str:
    """One line of the comparison table."""
    t, f, i, c = (r[k] for k in ("turn_us", "fork_us", "check_incremental_us", "check_full_us"))
    return (f"{label:24} {r['seconds']:6.2f} {r['turns']:7,} {r['events']:7,} {sum(r['faults'].values()):6,} "
            f"{r['records']:8,} {t['median']:7.0f} {t['p99']:7.0f} {t['max']:8.0f} {f['median']:6.1f} {f['p99']:7.1f} "
            f"{i['median']:6.1f} {c['median']:8.0f} {r['burst_us_per_event']:7.1f} {r['replay_s']:6.2f} "
            f"{r['peak_rss_mb']:5.0f} {r['trace'][:12]}")  # fmt: skip


HEADER = (
    f"{'':24} {'total':>6} {'':7} {'':7} {'':6} {'':8} {'turn us':>24} {'fork us':>14} {'check us':>15} "
    f"{'burst':>7} {'replay':>6} {'RSS':>5}\n"
    f"{'run':24} {'s':>6} {'turns':>7} {'events':>7} {'faults':>6} {'records':>8} {'median':>7} {'p99':>7} {'max':>8} "
    f"{'median':>6} {'p99':>7} {'incr.':>6} {'full':>8} {'us/ev':>7} {'s':>6} {'MB':>5} trace"
)


def report(options: Options, compare_days: float) -> None:
    """The main run twice, the four combinations on a shorter horizon, the dense sweeps; prints."""
    facts = machine_facts()
    print(f"machine {facts}  commit {commit()}  seed {options.seed}")
    print(f"rates   per 1,000 node-days: node {NODE_FAULTS}, accelerator {DEVICE_FAULTS}, process crash {CRASHES}; "
          f"one rack of {RACK_NODES} nodes per {RACK_FAULT_DAYS:g} days; repair median {REPAIR_MEDIAN_H:g} h, "
          f"mean {REPAIR_MEAN_H:g} h; all simulated")  # fmt: skip
    print(HEADER)
    main = simulate(options)
    print(row(f"{options.days:g} d, {options.spares} spares", main))
    again = child(options)
    require(again["trace"] == main["trace"] and again["state"] == main["state"], "two runs of one seed differ")
    print(row("  again, new process", again))
    ample = child(replace(options, spares=options.nodes // 10))
    print(row(f"{options.days:g} d, {options.nodes // 10} spares", ample))
    short: dict[str, dict[str, Any]] = {}
    for kind in ("columns", "objects"):
        for turn in ("fork", "inplace"):
            short[f"{kind}, {turn}"] = child(replace(options, days=compare_days, representation=kind, turn=turn))
            print(row(f"{compare_days:g} d, {kind}, {turn}", short[f"{kind}, {turn}"]))
    require(len({r["trace"] + r["state"] for r in short.values()}) == 1, "representations or turns differ")
    dense_days = min(0.5, options.days)
    dense, sparse = (child(replace(options, days=dense_days, dense=d)) for d in (True, False))
    print(row(f"{dense_days:g} d, sweep each 0.5 s", dense))
    require(dense["trace"] == sparse["trace"], "skipped sweeps were not empty")
    print(f"\nfaults {main['faults']}; generations {main['generations']}; stale signals refused {main['refused']}; "
          f"largest batch {main['largest_batch']}; open effects at end {main['open_effects']}; "
          f"journal {main['journal_mb']:.1f} MB")  # fmt: skip
    for label, r in (("main", main), ("ample", ample)):
        print(f"{label:6} turns {r['turn_total_s']:.1f} s (fork {r['fork_total_s']:.2f} s), checks "
              f"{r['check_total_s']:.1f} s; blocked {100 * r['blocked_share']:.1f} % of the time, "
              f"now: {r['blocker'] or 'nothing'}; ledger % {r['ledger_percent']}")  # fmt: skip
    print(f"same seed, new process: same trace {main['trace']}")
    print("replay of the encoded journal gives the same state; a failed append changes nothing, in both turns")
    print("columns and objects, fork and in place: same trace and state; sweeping every 0.5 s: same trace")
    write_figures(options, facts, main, ample)


def figure(name: str, value: float, unit: str, n: int, must: float | None = None) -> dict[str, Any]:
    """One figure in the form that all benchmarks share."""
    return {
        "id": name,
        "value": round(value, 3),
        "unit": unit,
        "n": n,
        "spread": None,
        "must": must,
        "goal": None,
        "peers": {},
    }


def write_figures(options: Options, facts: dict[str, Any], main: dict[str, Any], ample: dict[str, Any]) -> None:
    """The figures as JSON beside those of the other benchmarks."""
    figures = []
    for label, r in (("spares_50", main), ("spares_tenth", ample)):
        figures += [
            figure(f"core_{label}_s", r["seconds"], "s", 1, 60.0),
            figure(f"core_{label}_turn_us", r["turn_us"]["median"], "us", r["turns"]),
            figure(f"core_{label}_turn_p99_us", r["turn_us"]["p99"], "us", r["turns"]),
            figure(f"core_{label}_rss_mb", r["peak_rss_mb"], "MB", 1),
        ]
    path = ROOT / ".phalanx" / "bench" / "core.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    simulated = ["nodes", "accelerators", "ranks", "faults", "repairs", "latencies", "journal"]
    body = {"machine": facts, "commit": commit(), "seed": options.seed, "simulated": simulated, "figures": figures}
    path.write_text(json.dumps(body, indent=1) + "\n")
    print(f"written to {path.relative_to(ROOT)}")
