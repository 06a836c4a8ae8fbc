"""What a person waits for at the command line: `make bench-cli`.

Every sample is a process of its own, as it is for a person; the commands take turns, so that a busy moment of the
machine meets all of them. The floor is an interpreter that does nothing.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from phalanx.v1 import fleet_pb2

from tests.benchmarks import many_nodes
from tests.benchmarks.report import ROOT, Figure, commit, machine, of_samples, write
from tests.fixtures.controller_process import Controller

NODES = 6_250
PYTHON = (sys.executable, "-c", "pass")
PHALANX = (sys.executable, "-m", "cli")
IMPORT = (
    "import time; begun = time.perf_counter()\n"
    "from cli.__main__ import build; build('nodes'); import cli.client\n"
    "print((time.perf_counter() - begun) * 1000)"
)
"""What every command pays before it does anything: the command tree with its one module."""
MUST_HELP_MS = 150.0
MUST_NODES_MS = 400.0
SIMULATED = ("nodes: hellos of one process", "accelerators")


def timed_ms(argv: Sequence[str], environment: dict[str, str]) -> tuple[float, bytes]:
    """Wall time of a process, start to end, and what it wrote."""
    begun = time.perf_counter()
    done = subprocess.run(argv, capture_output=True, check=True, env=environment, cwd=ROOT)
    return (time.perf_counter() - begun) * 1_000, done.stdout


def children_cpu_ms() -> float:
    """Processor time of all processes that have ended; on a busy machine it says more than the clock on the wall."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1_000


def call_ms(controller: Controller, *, columns: bool) -> tuple[float, int]:
    """One warm `ListNodes` as a client sees it: the server's work, the way, and decoding. Also the bytes of the answer."""
    begun = time.perf_counter()
    answer = controller.fleet.ListNodes(fleet_pb2.ListNodesRequest(columns=columns), timeout=30)
    return (time.perf_counter() - begun) * 1_000, answer.ByteSize()


def measure(controller: Controller, runs: int, nodes: int) -> dict[str, list[float]]:
    """Samples by name, in ms."""
    environment = dict(os.environ) | {"PHALANX_ADDRESS": controller.address, "PHALANX_PLAINTEXT": "1", "NO_COLOR": "1"}
    samples: dict[str, list[float]] = {}

    def keep(name: str, value: float) -> None:
        samples.setdefault(name, []).append(value)

    for _ in range(runs + 1):  # the first round warms the file cache and is left out
        keep("floor", timed_ms(PYTHON, environment)[0])
        keep("help", timed_ms((*PHALANX, "--help"), environment)[0])
        keep("import", float(timed_ms((sys.executable, "-c", IMPORT), environment)[1]))
        before = children_cpu_ms()
        taken, text = timed_ms((*PHALANX, "nodes"), environment)
        keep("nodes", taken)
        keep("nodes, processor", children_cpu_ms() - before)
        if (lines := text.count(b"\n")) != nodes + 1:
            raise RuntimeError(f"the listing has {lines} lines")
        keep("nodes, 1 selected", timed_ms((*PHALANX, "nodes", "node-0001"), environment)[0])
        keep("call, columns", call_ms(controller, columns=True)[0])
        keep("call, messages", call_ms(controller, columns=False)[0])
    return {name: values[1:] for name, values in samples.items()}


def show(samples: dict[str, list[float]]) -> None:
    """The table for a person."""
    print(f"{'ms':<20}{'n':>4}{'median':>9}{'least':>9}{'most':>9}")
    for name, values in samples.items():
        print(f"{name:<20}{len(values):>4}{median(values):>9.1f}{min(values):>9.1f}{max(values):>9.1f}")
    whole, server = median(samples["nodes"]), median(samples["call, columns"])
    floor = median(samples["floor"])
    print(
        f"\nthe listing: {whole:.0f} ms, of which {server:.0f} ms are the call (server, way, decoding), {floor:.0f} ms the "
        f"start of an interpreter and {whole - server - floor:.0f} ms imports, connecting and the table"
    )


def main() -> int:
    """Measures, prints, writes; exit status 1 when a promise is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--nodes", type=int, default=NODES)
    options = parser.parse_args()
    print(f"machine {machine()}; commit {commit()}; {options.nodes} nodes, each with {many_nodes.ACCELERATORS} devices")
    with tempfile.TemporaryDirectory(prefix="phalanx-bench-cli-") as folder:
        controller = Controller(Path(folder), lease_ms=3_600_000).start()
        try:
            taken = many_nodes.register(controller.address, options.nodes)
            print(f"registered through the agents' protocol in {taken:.1f} s")
            samples = measure(controller, options.runs, options.nodes)
            bytes_ = {columns: call_ms(controller, columns=columns)[1] for columns in (True, False)}
        finally:
            controller.close()
    show(samples)
    print(f"bytes of the answer: {bytes_[True]:,} as columns, {bytes_[False]:,} as messages")
    figures: list[Figure] = [
        of_samples("help_ms", samples["help"], "ms", must=MUST_HELP_MS),
        of_samples("nodes_6250_ms", samples["nodes"], "ms", must=MUST_NODES_MS),
        of_samples("import_ms", samples["import"], "ms"),
        of_samples("python_floor_ms", samples["floor"], "ms"),
        of_samples("nodes_6250_call_ms", samples["call, columns"], "ms"),
    ]
    print(f"written to {write('cli', figures, simulated=SIMULATED).relative_to(ROOT)}")
    late = [figure.id for figure in figures if figure.must is not None and figure.value > figure.must]
    for name in late:
        print(f"{name} is above its limit")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
