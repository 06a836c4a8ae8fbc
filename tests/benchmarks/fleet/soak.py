"""`make soak-fleet`: all agents beat for half an hour, and how the controller's memory grows meanwhile."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.benchmarks.fleet.site import CONTROLLER_CORE, Generator, make_site, pin, read_lag, sample
from tests.benchmarks.report import Figure

SAMPLE_S = 5.0
SETTLE_SHARE = 1 / 3
"""Of the time, that the allocator and its caches have to settle; the slope is taken of the rest."""


def slope_mb_per_h(at_s: Sequence[float], rss_mb: Sequence[float]) -> float:
    """Least squares over the samples after the settling."""
    begin = at_s[0] + SETTLE_SHARE * (at_s[-1] - at_s[0])
    kept = [(at, mb) for at, mb in zip(at_s, rss_mb, strict=True) if at >= begin]
    times, sizes = np.array(kept).T
    return float(np.polyfit(times, sizes, 1)[0]) * 3_600


def measure(options: argparse.Namespace) -> list[Figure]:
    """One stream per node, one beat a second each, nothing else, and the memory of the controller."""
    folder = Path(tempfile.mkdtemp(prefix="phx-soak-"))
    controller = make_site(
        folder, options.nodes, tls=not options.plaintext, lease_ms=3_000, beat_ms=1_000, journal_busy_ms=5_000
    )
    controller.start()
    assert controller.process is not None
    pid = controller.process.pid
    pin(pid, CONTROLLER_CORE)
    generator = Generator(folder)
    try:
        generator.ask("connect", tries=60)
        generator.ask("cells")
        generator.ask("beats", interval_s=1.0)
        at_s, rss_mb = [time.monotonic()], [sample(pid).rss_mb]
        revision = controller.site().revision
        while at_s[-1] < at_s[0] + options.soak_seconds:
            time.sleep(SAMPLE_S)
            at_s.append(time.monotonic())
            rss_mb.append(sample(pid).rss_mb)
        marks, heard = generator.ask("marks"), read_lag(controller).beats
        records = controller.site().revision - revision
    finally:
        generator.close()
        controller.close()
        shutil.rmtree(folder, ignore_errors=True)
    slope = slope_mb_per_h(at_s, rss_mb)
    print(
        f"{options.nodes:,} agents for {at_s[-1] - at_s[0]:.0f} s, {heard:,.0f} beats heard, {marks['open']:,} sessions open, "
        f"{records} records: {rss_mb[0]:.1f} MB at first, {rss_mb[-1]:.1f} MB at last, {slope:+.2f} MB an hour since a third of it"
    )
    return [
        Figure("rss_slope_mb_per_h", round(slope, 2), "MB/h", len(rss_mb), goal=1),
        Figure("soak_sessions_lost", options.nodes - marks["open"], "sessions", options.nodes, must=0),
    ]
