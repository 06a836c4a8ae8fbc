"""`phalanx-agent check`: every probe once, on this machine, and what it sees and cannot see.

Probes run as in the agent: each in a process of its own, with a deadline.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

import structlog
from phalanx.v1 import agent_pb2, types_pb2

from agents.node.check_pair import add_options, check_pair
from agents.node.probes.real_machine import RealMachine
from agents.node.probes.supervised import Pace, SupervisedProbe
from agents.node.probes.vendors import TOOLS, load, present

OK = 0
NOT_FOUND = 3
DEGRADED = 7
"""Exit codes as docs/cli.md has them."""
UNPROVEN = "constructed"
_QUIET = ("HEALTHY",)


@dataclass(frozen=True, slots=True)
class Seen:
    """One device and what is known of it."""

    index: int
    serial: str
    pci_address: str
    model: str
    state: str
    values: dict[str, float] = field(default_factory=dict)
    unsupported: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe said. `proven`: whether it has been tried on published outputs of its tool; `source`: where those are.
    `trouble`: why it said nothing."""

    vendor: str
    proven: bool
    source: str
    devices: list[Seen] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    trouble: str = ""

    @property
    def empty(self) -> bool:
        """Whether there is nothing of this vendor here."""
        return not (self.devices or self.faults or self.unreadable or self.versions or self.trouble)

    @property
    def well(self) -> bool:
        """Whether everything was read, and is healthy."""
        healthy = all(device.state in _QUIET for device in self.devices)
        return healthy and not (self.faults or self.unreadable or self.trouble)


def check(arguments: Sequence[str], out: TextIO | None = None) -> int:
    """Run the command line; returns the exit code: 0 all is well, 3 a vendor that was named is not here, 7 something is not
    well or cannot be read."""
    parser = argparse.ArgumentParser(prog="phalanx-agent check", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument(
        "--probe",
        action="append",
        default=[],
        choices=sorted(TOOLS),
        metavar="VENDOR",
        help=f"only this one; repeatable (default: what is here). Vendors: {', '.join(sorted(TOOLS))}",
    )
    parser.add_argument("--deadline-s", type=float, default=15.0, help="for one probe (default: %(default)s)")
    parser.add_argument("-o", dest="form", choices=("table", "json"), default="table", help="form of the output")
    add_options(parser)
    parsed = parser.parse_args(arguments)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if parsed.listen or parsed.call:
        return OK if check_pair(parsed, out or sys.stdout) else DEGRADED
    vendors = tuple(sorted({*parsed.probe})) or present(RealMachine())
    found = asyncio.run(_read_all(vendors, parsed.deadline_s))
    absent = sorted(TOOLS.keys() - {*vendors})
    stream = out or sys.stdout
    stream.write(_json(found, absent) if parsed.form == "json" else "\n".join(_lines(found, absent)) + "\n")
    if parsed.probe and any(finding.empty for finding in found if finding.vendor in parsed.probe):
        return NOT_FOUND
    return OK if all(finding.well for finding in found) else DEGRADED


async def _read_all(vendors: Sequence[str], deadline_s: float) -> list[Finding]:
    return list(await asyncio.gather(*(_read(vendor, deadline_s) for vendor in vendors)))


async def _read(vendor: str, deadline_s: float) -> Finding:
    answer: asyncio.Future[agent_pb2.ProbeReading | str] = asyncio.get_running_loop().create_future()

    def settle(value: agent_pb2.ProbeReading | str) -> None:
        if not answer.done():
            answer.set_result(value)

    probe = SupervisedProbe(
        vendor,
        on_reading=settle,
        on_trouble=lambda _vendor, code, reason: settle(f"{code}: {reason}"),
        pace=Pace(deadline_s=deadline_s),
    )
    running = asyncio.create_task(probe.run())
    try:
        return _finding(vendor, await answer)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _finding(vendor: str, answer: agent_pb2.ProbeReading | str) -> Finding:
    source = load(vendor).PROVEN
    proven = source != UNPROVEN
    if isinstance(answer, str):
        return Finding(vendor, proven, source, trouble=answer)
    telemetry = {row.accelerator: row for row in answer.telemetry}
    return Finding(
        vendor,
        proven,
        source,
        [_seen(row, telemetry.get(row.index)) for row in answer.accelerators],
        [f"{row.entity}: {row.code} {row.message}".strip() for row in answer.faults],
        [f"{row.name}{_of(row.accelerators)}: {row.reason}" for row in answer.unreadable],
        dict(answer.versions),
    )


def _seen(row: agent_pb2.AcceleratorStatus, told: agent_pb2.DeviceTelemetry | None) -> Seen:
    state = types_pb2.AcceleratorState.Name(row.state).removeprefix("ACCELERATOR_STATE_")
    values = dict(sorted(told.values.items())) if told is not None else {}
    return Seen(
        row.index, row.serial, row.pci_address, row.model, state, values, list(told.unsupported) if told else []
    )


def _of(positions: Iterable[int]) -> str:
    numbers = ", ".join(str(position) for position in positions)
    return f" (accelerator {numbers})" if numbers else ""


def _json(found: Sequence[Finding], absent: Sequence[str]) -> str:
    document: dict[str, Any] = {"probes": [asdict(finding) for finding in found], "absent": list(absent)}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _lines(found: Sequence[Finding], absent: Sequence[str]) -> Iterable[str]:
    for finding in found:
        yield from _of_vendor(finding)
        yield ""
    yield f"not here: {', '.join(absent)}" if absent else "every vendor is here"
    unproven = [finding.vendor for finding in found if not finding.proven]
    if unproven:
        text = "no output of their tools is published, so they were tried on constructed ones only"
        yield f"unproven: {', '.join(unproven)}: {text}"


def _of_vendor(finding: Finding) -> Iterable[str]:
    versions = ", ".join(f"{name} {value}" for name, value in sorted(finding.versions.items()))
    yield f"{finding.vendor}: {len(finding.devices)} devices{f' ({versions})' if versions else ''}"
    if finding.trouble:
        yield f"  sees nothing: {finding.trouble}"
    for device in finding.devices:
        name = _printable(f"{device.model} {device.serial} {device.pci_address}")
        yield f"  {device.index:>3}  {device.state:<9} {name}"
        values = ", ".join(f"{name} {value:.6g}" for name, value in device.values.items())
        if values:
            yield f"       {values}"
        if device.unsupported:
            yield f"       does not have: {', '.join(device.unsupported)}"
    for fault in finding.faults:
        yield f"  fault: {_printable(fault)}"
    for source in finding.unreadable:
        yield f"  cannot see: {_printable(source)}"
    if finding.empty:
        yield "  nothing of this vendor is here"


def _printable(text: str) -> str:
    """Text of a vendor's tool without control characters: it goes to a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
