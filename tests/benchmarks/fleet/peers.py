"""What others need for the same: the same frames on bare sockets, leases of etcd, nodes of Slurm."""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.fleet import etcd, slurm
from tests.benchmarks.fleet.scenarios import percentile
from tests.benchmarks.fleet.site import CONTROLLER_CORE, Generator, make_site, pin, sample
from tests.benchmarks.report import ROOT, Figure
from tests.fixtures.controller_process import until
from tests.fixtures.ports import free_port
from tests.fixtures.secure_site import SecureController

FLOOR_S = 60.0
WARM_S = 2.0


def floor(nodes: int, seconds: float, *, tls: bool) -> list[Figure]:
    """All agents beat once a second, and a server of bare asyncio sockets drops their beats."""
    folder = Path(tempfile.mkdtemp(prefix="phx-floor-"))
    controller = make_site(folder, nodes, tls=tls)  # never started: its authority and its agents' certificates
    if isinstance(controller, SecureController):
        shown = controller.authority.serve_as("floor")
        (folder / "server.pem").write_bytes(shown.certificate_pem + shown.key_pem)
    address = f"127.0.0.1:{free_port()}"
    site = json.loads((folder / "site.json").read_text())
    (folder / "site.json").write_text(json.dumps(site | {"address": address}))
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.fleet.floor_server", str(folder), address], cwd=ROOT
    )
    generator = Generator(folder)
    try:
        pin(server.pid, CONTROLLER_CORE)
        until(lambda: _listens(address), "the bare sockets listen")
        idle = sample(server.pid)
        took = generator.ask("connect")
        connected_s = sample(server.pid).cpu_s - idle.cpu_s
        generator.ask("beats", interval_s=1.0)
        time.sleep(WARM_S)
        sent, used = generator.ask("marks"), sample(server.pid)
        time.sleep(seconds)
        sent_after, used_after = generator.ask("marks"), sample(server.pid)
    finally:
        generator.close()
        server.kill()
        server.wait()
        controller.close()
        shutil.rmtree(folder, ignore_errors=True)
    cpu_s = used_after.cpu_s - used.cpu_s
    share, beats = cpu_s / (sent_after["at"] - sent["at"]), sent_after["sent"] - sent["sent"]
    print(
        f"bare sockets: {nodes:,} sessions open in {took['took_s']:.1f} s ({connected_s / nodes * 1e3:.2f} ms each); "
        f"{beats:,} beats, {share:.3f} of a core, {cpu_s / max(beats, 1) * 1e6:.0f} us each; {used_after.rss_mb:.0f} MB"
    )
    return [
        Figure("floor_cpu", round(share, 3), "cores", 1),
        Figure("floor_beat_us", round(cpu_s / max(beats, 1) * 1e6, 1), "us", beats),
        Figure("floor_hello_ms", round(connected_s / nodes * 1e3, 3), "ms", nodes),
    ]


def _listens(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def leases(nodes: int) -> list[Figure]:
    """Leases of etcd at its defaults and tuned; none without etcd."""
    if not etcd.installed():
        print("etcd is not measured: it is not installed (Debian: apt-get install etcd-server)")
        return []
    figures = []
    for found in etcd.measure(nodes):
        name, setting = found.setting.name, found.setting
        late = percentile(found.many_late_ms, 0.99)
        print(
            f"etcd, {name} (leases of {setting.ttl_s} s, kept alive every {setting.every_s:g} s): {nodes:,} leases, "
            f"{found.keep_alives_per_s:,.0f} keep-alives/s, {found.keep_alive_cores:.3f} of a core, {found.false_expiries} expired "
            f"though kept alive; known to be gone after the end of one lease {found.one_late_ms:.0f} ms, of "
            f"{len(found.many_late_ms):,} {min(found.many_late_ms):.0f} to {max(found.many_late_ms):.0f} ms"
        )
        spread = (round(min(found.many_late_ms), 1), round(max(found.many_late_ms), 1))
        figures += [
            Figure(f"etcd_{name}_keep_alive_cpu", round(found.keep_alive_cores, 3), "cores", 1),
            Figure(f"etcd_{name}_false_expiries", found.false_expiries, "leases", nodes),
            Figure(f"etcd_{name}_late_ms", round(found.one_late_ms, 1), "ms", 1),
            Figure(f"etcd_{name}_1000_late_p99_ms", round(late, 1), "ms", len(found.many_late_ms), spread),
        ]
    return figures


def daemons() -> list[Figure]:
    """Slurm's node daemon stands still; none without Slurm."""
    if not slurm.installed():
        print("Slurm is not measured: its daemons are not installed (Debian: apt-get install slurm-wlm)")
        return []
    figures = []
    for found in slurm.measure():
        print(
            f"Slurm, {found.name} (SlurmdTimeout {found.timeout_s} s): DOWN {found.down_s:.1f} s after its daemon stood still"
        )
        late_ms = (found.down_s - found.timeout_s) * 1_000
        figures.append(Figure(f"slurm_{found.name}_late_ms", round(late_ms), "ms", 1))
    return figures


def measure(options: argparse.Namespace) -> list[Figure]:
    """The same beats on bare sockets, the leases of etcd, a node of Slurm."""
    seconds = min(options.seconds, FLOOR_S)
    return [*floor(options.nodes, seconds, tls=not options.plaintext), *leases(options.nodes), *daemons()]


BESIDE = {
    "direct_cpu": ("floor_cpu", "etcd_default_keep_alive_cpu", "etcd_tuned_keep_alive_cpu"),
    "hello_cpu_ms": ("floor_hello_ms",),
    "silent_detect_p99_ms": (
        "etcd_default_late_ms",
        "etcd_tuned_late_ms",
        "slurm_default_late_ms",
        "slurm_tuned_late_ms",
    ),
    "silent_1000_detect_p99_ms": ("etcd_default_1000_late_p99_ms", "etcd_tuned_1000_late_p99_ms"),
    "false_deaths": ("etcd_default_false_expiries", "etcd_tuned_false_expiries"),
}
"""Our figure, and theirs that are shown beside it."""


def beside(figures: Sequence[Figure]) -> list[Figure]:
    """Our figures with those of others that were measured in the same run."""
    values = {figure.id: figure.value for figure in figures}
    return [
        replace(figure, peers={name: values[name] for name in BESIDE.get(figure.id, ()) if name in values})
        for figure in figures
    ]
