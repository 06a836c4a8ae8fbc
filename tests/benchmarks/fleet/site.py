"""The two processes of the bench: a real controller on one core, the generator of agents on the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.fleet.generator import NODES_PER_CELL
from tests.benchmarks.report import ROOT
from tests.fixtures.controller_process import Controller
from tests.fixtures.secure_site import SecureController

CONTROLLER_CORE, GENERATOR_CORE = 0, 1
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """What a process had used at a moment."""

    cpu_s: float
    rss_mb: float


def sample(pid: int) -> Sample:
    """Processor time and resident memory of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Sample((int(fields[11]) + int(fields[12])) / TICKS, pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


def make_site(folder: Path, nodes: int, *, tls: bool, **flags: object) -> Controller:
    """A controller (not started), and what the generator needs to know of it. With TLS one certificate per node and cell."""
    controller: Controller
    if tls:
        secure = SecureController(folder, **flags)
        (folder / "ca.pem").write_bytes(secure.authority.pem)
        names = [f"node-{number:04d}" for number in range(nodes)]
        for name in names:
            shown = secure.shown("node", name)
            (folder / f"node-{name}.pem").write_bytes(shown.certificate + shown.key)
        for at in range(0, nodes, NODES_PER_CELL):
            name = f"cell-{at // NODES_PER_CELL:02d}"
            shown = secure.shown("cell", name, speaks_for=tuple(names[at : at + NODES_PER_CELL]))
            (folder / f"cell-{name}.pem").write_bytes(shown.certificate + shown.key)
        controller = secure
    else:
        controller = Controller(folder, **flags)
    (folder / "site.json").write_text(json.dumps({"address": controller.address, "nodes": nodes, "tls": tls}))
    return controller


class Generator:
    """The generator's process."""

    def __init__(self, folder: Path, module: str = "generator") -> None:
        self._log = (folder / "generator.log").open("ab")
        line = [sys.executable, "-m", f"tests.benchmarks.fleet.{module}", str(folder)]
        self.process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, cwd=ROOT, env=dict(os.environ)
        )
        os.sched_setaffinity(self.process.pid, {GENERATOR_CORE})

    def ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        """One command and its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write((json.dumps({"do": what, **arguments}) + "\n").encode())
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the generator has ended: {Path(self._log.name).read_text()[-2_000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self._log.close()


def pin(pid: int, core: int) -> None:
    """All threads of a process on one core."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with suppress(ProcessLookupError):  # one that has ended since
            os.sched_setaffinity(int(thread), {core})


@dataclass(frozen=True)
class Lag:
    """Beats and their lag as the controller counts them."""

    beats: float
    buckets: tuple[tuple[float, float], ...]

    def since(self, former: Lag) -> Lag:
        """What has come since then."""
        pairs = zip(self.buckets, former.buckets, strict=True)
        return Lag(self.beats - former.beats, tuple((bound, count - old) for (bound, count), (_, old) in pairs))

    def percentile_ms(self, share: float) -> float:
        """The upper bound of the bucket that holds it: never too good, and at most a quarter too bad."""
        wanted = share * self.beats
        return next(bound for bound, count in self.buckets if count >= wanted) * 1_000

    def at_least_ms(self, share: float) -> float:
        """The lower bound of the same bucket: never too bad."""
        wanted = share * self.beats
        return max((bound for bound, count in self.buckets if count < wanted), default=0.0) * 1_000


def read_lag(controller: Controller) -> Lag:
    """The histogram from the controller's own /metrics."""
    with urllib.request.urlopen(f"http://{controller.metrics_address}/metrics", timeout=10) as answer:
        lines: Sequence[str] = answer.read().decode().splitlines()
    buckets = []
    for line in lines:
        if line.startswith("phalanx_beat_lag_seconds_bucket"):
            bound = line.split('le="')[1].split('"')[0]
            buckets.append((float(bound.replace("+Inf", "inf")), float(line.rsplit(" ", 1)[1])))
    return Lag(buckets[-1][1], tuple(buckets))
