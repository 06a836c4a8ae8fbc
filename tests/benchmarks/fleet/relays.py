"""A site behind relays: what 98 of them cost the controller, what one of them costs its own machine, and what its death does."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

from tests.benchmarks.fleet import scenarios
from tests.benchmarks.fleet.relayed import NODES_PER_RELAY, relay_name
from tests.benchmarks.fleet.scenarios import Bench, Disturbance
from tests.benchmarks.fleet.site import CONTROLLER_CORE, Generator, make_site, pin, read_lag, sample
from tests.benchmarks.fleet.watch import Watch
from tests.benchmarks.report import Figure
from tests.fixtures.controller_process import Controller
from tests.fixtures.relays import RelayProcess
from tests.fixtures.secure_site import SecureController

DEVICES = 8
REDIAL_S = 0.5
"""How long agents need to dial again: measured with real ones, tests/integration/test_relay.py."""


def certify(controller: Controller, folder: Path, nodes: int) -> None:
    """A certificate for each relay of the generator."""
    if isinstance(controller, SecureController):
        for at in range(0, nodes, NODES_PER_RELAY):
            name, last = relay_name(at // NODES_PER_RELAY), min(nodes, at + NODES_PER_RELAY) - 1
            shown = controller.shown("relay", name, speaks_for=(f"node-[{at:04d}-{last:04d}]",))
            (folder / f"relay-{name}.pem").write_bytes(shown.certificate + shown.key)


def killed(relay: int) -> Disturbance:
    """A relay dies; its agents dial again a moment later."""

    def disturb(bench: Bench) -> tuple[float, float]:
        bench.generator.ask("kill_relay", relay=relay)
        time.sleep(REDIAL_S)
        bench.generator.ask("reconnect")
        return 0.0, 0.0

    return disturb


def many(options: argparse.Namespace) -> list[Figure]:
    """All nodes behind relays of the generator, each of which tells of 64 nodes ten times a second."""
    folder = Path(tempfile.mkdtemp(prefix="phx-relays-"))
    nodes = options.nodes
    names = tuple(f"node-{number:04d}" for number in range(nodes))
    controller = make_site(folder, nodes, tls=not options.plaintext, lease_ms=3_000, beat_ms=100)
    certify(controller, folder, nodes)
    controller.start()
    generator = Generator(folder, "relayed")
    try:
        took = generator.ask("connect")
        generator.ask("cells")
        watch = Watch(controller)
        bench = Bench(controller, generator, watch, names, options.seed)
        found = scenarios.load(bench, min(options.seconds, 60.0))
        rate = found.sent * DEVICES / (found.seconds + 3.0)
        print(
            f"{nodes:,} sessions through {-(-nodes // NODES_PER_RELAY)} relays open in {took['took_s']:.1f} s; about "
            f"{rate:,.0f} device beats/s: sent {found.sent:,}, heard {found.heard:,}; lag p50 {found.lag_p50_ms:.2f} ms, p99 "
            f"{found.lag_p99_ms:.1f} ms; controller {found.share:.3f} of a core, {found.rss_mb:.0f} MB; generator "
            f"{found.generator_share:.2f} of a core, {found.generator_late_p99_ms:.1f} ms late (p99)"
        )
        verdicts = scenarios.disturbed(bench, "a relay killed", killed(0))
        print(f"a relay killed: false {verdicts.false}, missed {verdicts.missed}, worst {verdicts.worst_s:.2f} s")
        watch.close()
    finally:
        generator.close()
        controller.close()
        shutil.rmtree(folder, ignore_errors=True)
    return [
        Figure("relay_cpu", round(found.share, 3), "cores", 1, must=0.35, goal=0.15),
        Figure("relay_lag_p99_ms", round(found.lag_p99_ms, 2), "ms", found.heard, must=100, goal=25),
        Figure("relay_missed", found.sent - found.heard, "beats", found.sent, must=0, goal=0),
        Figure("relay_controller_mb", round(found.rss_mb, 1), "MB", 1),
        Figure("relay_false_deaths", verdicts.false, "nodes", 1, must=0, goal=0),
        Figure("relay_true_deaths_missed", verdicts.missed, "nodes", 1, must=0, goal=0),
    ]


def one(options: argparse.Namespace) -> list[Figure]:
    """A real relay process with the streams of 64 agents, each of which beats ten times a second."""
    folder = Path(tempfile.mkdtemp(prefix="phx-relay-"))
    controller = make_site(folder, NODES_PER_RELAY, tls=not options.plaintext, lease_ms=3_000, beat_ms=100)
    controller.start()
    relay = RelayProcess(controller, folder / "relay", "relay-00", (f"node-[0000-{NODES_PER_RELAY - 1:04d}]",))
    site = json.loads((folder / "site.json").read_text())
    (folder / "site.json").write_text(json.dumps(site | {"address": relay.address, "server_name": "relay.phalanx"}))
    generator = Generator(folder)
    try:
        pin(relay.process.pid, CONTROLLER_CORE)
        generator.ask("connect")
        generator.ask("beats", interval_s=0.1)
        time.sleep(2.0)
        sent, heard, used = generator.ask("marks"), read_lag(controller), sample(relay.process.pid)
        seconds = min(options.seconds, 60.0)
        time.sleep(seconds)
        sent_after, heard_after = generator.ask("marks"), read_lag(controller)
        used_after = sample(relay.process.pid)
        share = (used_after.cpu_s - used.cpu_s) / (sent_after["at"] - sent["at"])
        print(
            f"one relay, {NODES_PER_RELAY} agents: {(sent_after['sent'] - sent['sent']) / seconds:.0f} beats/s in, "
            f"{(heard_after.beats - heard.beats) / seconds:.0f} out; {share:.3f} of a core, {used_after.rss_mb:.0f} MB"
        )
        assert sent_after["open"] == NODES_PER_RELAY, generator.ask("ended")
    finally:
        generator.close()
        relay.close()
        controller.close()
        shutil.rmtree(folder, ignore_errors=True)
    return [
        Figure("relay_own_cpu", round(share, 3), "cores", 1, must=0.2, goal=0.1),
        Figure("relay_own_mb", round(used_after.rss_mb, 1), "MB", 1, must=120, goal=80),
    ]


def measure(options: argparse.Namespace) -> list[Figure]:
    """Every node behind relays at 10 Hz, and one real relay."""
    return [*many(options), *one(options)]
