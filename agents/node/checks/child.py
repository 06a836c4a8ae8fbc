"""The process of one check: `python -m agents.node.checks.child CHECK --parent PID ...`. One line of JSON on its descriptor.

It ends when its parent does, whatever it is doing.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from agents.node.checks import arithmetic, disk, memory, network, pair, torch_devices
from agents.node.checks.finding import Answer
from agents.node.probes.child import end_with

CHECKS = ("arithmetic", "memory", "disk", "network", "pair")


def run(parsed: argparse.Namespace) -> Answer:
    """The check that was asked for."""
    devices = torch_devices.find(tuple(parsed.device)) if parsed.devices else None
    if parsed.devices and devices is None:
        return Answer("")
    match parsed.check:
        case "arithmetic":
            return arithmetic.check(devices, parsed.seconds)
        case "memory":
            return memory.check(devices)
        case "disk":
            return disk.check(parsed.dir)
        case "network":
            return network.check_loopback()
        case "pair":
            found = (parsed.rank, parsed.address, parsed.port, parsed.test, parsed.meet_s)
            return pair.check(pair.PairTest(*found, sums=parsed.sums, spoiled=pair.Spoiled(parsed.spoiled)))
        case other:
            raise ValueError(f"there is no check {other!r}")


def _add_pair(parser: argparse.ArgumentParser) -> None:
    """What a test with another node needs to know."""
    parser.add_argument("--rank", type=int, choices=(0, 1), default=0, help="0 listens, 1 calls")
    parser.add_argument("--address", default="127.0.0.1", help="where rank 0 listens")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--test", default="", help="the same word at both nodes")
    parser.add_argument("--meet-s", type=float, default=30.0, help="how long the two may take to find each other")
    parser.add_argument("--sums", action="store_true", help="also add up through torch")
    parser.add_argument("--spoiled", choices=[how.value for how in pair.Spoiled], default="", help="for trials")


def main(arguments: Sequence[str] | None = None) -> None:
    """Check, answer, end."""
    parser = argparse.ArgumentParser(prog="python -m agents.node.checks.child", description=__doc__)
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--descriptor", type=int, required=True, help="where the answer is written")
    parser.add_argument("--parent", type=int, required=True, help="process with which this one ends")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long arithmetic is repeated")
    parser.add_argument("--niceness", type=int, default=0)
    parser.add_argument("--devices", action="store_true", help="the vendor's devices instead of the processors")
    parser.add_argument("--device", action="append", default=[], help="only this entity; repeatable")
    parser.add_argument("--dir", type=Path, default=Path())
    _add_pair(parser)
    parsed = parser.parse_args(arguments)
    end_with(parsed.parent)
    os.nice(parsed.niceness)
    with open(parsed.descriptor, "wb") as answer:
        answer.write(run(parsed).encode())


if __name__ == "__main__":
    main()
