"""A controller with a long journal and a whole site is killed and started again: when it serves, when all agents are back."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from controlplane.adapters.journal.sql import SqlJournal
from tests.benchmarks.fleet import history
from tests.benchmarks.fleet.scenarios import LEASE_S, deaths
from tests.benchmarks.fleet.site import CONTROLLER_CORE, Generator, make_site, pin, sample
from tests.benchmarks.fleet.watch import Watch
from tests.benchmarks.report import Figure
from tests.fixtures.controller_process import Controller, until

WARM_S = 5.0
TRIES = 240
"""Half a second between them: two minutes."""
KEPT = 1 << 30
"""More records than there are: no snapshot and no compaction while the bench runs."""


@dataclass(frozen=True)
class Restart:
    """Seconds from the start of the new process, and what it used of its processor until then."""

    serving_s: float
    serving_cpu_s: float
    replay_s: float
    back_s: float
    back_cpu_s: float
    convicted: int
    records: int
    after_snapshot: int
    vain: dict[str, int]
    """Tries of agents that came too early or were turned away, by reason."""


def restart(controller: Controller, generator: Generator) -> Restart:
    """Kill the controller, start it, wait for all agents."""
    path = controller.folder / "journal" / "journal.db"
    journal = SqlJournal(f"sqlite:///{path}")
    try:
        controller.kill()
        extent = journal.extent()
        began = time.monotonic()
        controller.launch()
        assert controller.process is not None
        pid = controller.process.pid
        pin(pid, CONTROLLER_CORE)
        until(controller.serving, "the controller serves again", 120.0)
        serving_s, serving = time.monotonic() - began, sample(pid)
        watch = Watch(controller)
        vain = generator.ask("reconnect", tries=TRIES)["vain"]
        generator.ask("reconnect_cells", tries=TRIES)
        back_s, back = time.monotonic() - began, sample(pid)
        time.sleep(3 * LEASE_S)
        convicted = len(deaths(watch.seen))
        watch.close()
    finally:
        journal.close()
    replay_s = json.loads(controller.log_lines("controller_started")[-1])["replay_s"]
    return Restart(
        serving_s, serving.cpu_s, replay_s, back_s, back.cpu_s - serving.cpu_s, convicted, extent.newest,
        extent.newest - extent.snapshot, vain,
    )  # fmt: skip


def measure(options: argparse.Namespace) -> list[Figure]:
    """A million records, at least fifty thousand after the newest snapshot; killed, started, and all agents are back."""
    folder = Path(tempfile.mkdtemp(prefix="phx-restart-"))
    flags = {"lease_ms": round(LEASE_S * 1_000), "beat_ms": 1_000, "snapshot_records": KEPT, "retain_records": KEPT}
    # As installed: modules are compiled once, not at every start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    controller = make_site(folder, options.nodes, tls=not options.plaintext, **flags)
    began = time.process_time()
    history.build(folder, options.nodes, options.records, options.records // 20, options.seed)
    print(f"the history took {time.process_time() - began:.0f} s of processor time", flush=True)
    controller.start()
    generator = Generator(folder)
    try:
        generator.ask("beats", interval_s=1.0)  # each node's begin with its session
        first = generator.ask("connect", tries=TRIES)
        print(
            f"{options.nodes:,} agents connect in {first['took_s']:.1f} s; in vain: {first['vain'] or 'none'}",
            flush=True,
        )
        generator.ask("cells", tries=TRIES)
        time.sleep(WARM_S)
        found = restart(controller, generator)
    finally:
        generator.close()
        controller.close()
        shutil.rmtree(folder, ignore_errors=True)
    print(
        f"{found.records:,} records, {found.after_snapshot:,} after the newest snapshot: serving after {found.serving_s:.2f} s "
        f"({found.serving_cpu_s:.2f} s of processor, replay {found.replay_s:.2f} s), {options.nodes:,} agents back after "
        f"{found.back_s:.1f} s ({found.back_cpu_s:.1f} s of processor, "
        f"{found.back_cpu_s / options.nodes * 1_000:.2f} ms each); {found.convicted} convicted; in vain: {found.vain or 'none'}"
    )
    return [
        Figure("restart_serving_s", round(found.serving_s, 2), "s", 1, must=5, goal=1.5),
        Figure("restart_all_back_s", round(found.back_s, 1), "s", options.nodes, must=60, goal=20),
        Figure("restart_convicted", found.convicted, "nodes", options.nodes, must=0, goal=0),
        Figure("hello_cpu_ms", round(found.back_cpu_s / options.nodes * 1_000, 3), "ms", options.nodes),
    ]
