"""The process of one probe: `python -m agents.node.probes.child VENDOR --descriptor N`.

It reads every interval and writes a frame per reading to the descriptor that its parent made; standard output belongs to
vendor libraries. It ends when its parent does, whatever it is doing.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence

from agents.node.probes.machine import Memory
from agents.node.probes.real_machine import RealMachine
from agents.node.probes.vendors import TOOLS, load
from agents.node.probes.wire import frame_of, message_of

NICENESS = 5
_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """SIGKILL for this process when its parent ends: a vendor's call that hangs hears nothing else."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        sys.exit(1)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read until the parent ends or closes its side; `--count` readings when given."""
    parser = argparse.ArgumentParser(prog="python -m agents.node.probes.child", description=__doc__)
    parser.add_argument("vendor", choices=sorted(TOOLS))
    parser.add_argument("--descriptor", type=int, required=True, help="where frames are written")
    parser.add_argument("--parent", type=int, required=True, help="process with which this one ends")
    parser.add_argument("--interval-s", type=float, default=2.0, help="from one reading to the next")
    parser.add_argument(
        "--log-since-ns", type=int, default=0, help="read the kernel log from here (Unix ns; 0: from now)"
    )
    parser.add_argument("--count", type=int, default=0, help="readings after which it ends; 0: never")
    parsed = parser.parse_args(arguments)
    end_with(parsed.parent)
    os.nice(NICENESS)
    probe, machine = load(parsed.vendor), RealMachine(parsed.log_since_ns)
    memory: Memory = {}
    readings = 0
    while True:
        began = time.monotonic()
        message = message_of(probe.read(machine, memory), machine.now_ns())
        try:
            _write_all(parsed.descriptor, frame_of(message))
        except BrokenPipeError:
            return
        readings += 1
        if readings == parsed.count:
            return
        time.sleep(max(0.0, began + parsed.interval_s - time.monotonic()))


if __name__ == "__main__":
    main()
