"""Kunlunxin XPUs: the table of `xpu-smi`, and `xpu-smi -q` for serial numbers.

Intel's tool has the same name: what it prints is not read, and its presence says nothing. No event interface, no binding and
no list of Kunlunxin's Xids are public; health is what the table shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from agents.node.probes.boards import Board, Listing, assembled
from agents.node.probes.findings import Findings
from agents.node.probes.inventory import on_the_bus, pci_address
from agents.node.probes.machine import Machine, Memory, Unreadable
from agents.node.probes.reading import Reading, Unread
from agents.node.probes.text import cells, kept_order, printed, words

VENDOR = "kunlunxin"
PCI_VENDORS = frozenset({"1d22", "2057"})
PROVEN = "https://github.com/PaddlePaddle/docs/blob/develop/docs/hardware_support/xpu/xpu-p800_install_cn.md"

TOOL = "xpu-smi"
_TABLE = (TOOL,)
_QUERY = (TOOL, "-q")
_ESSENTIAL = frozenset({"temperature_celsius"})
_HEADS = (
    ["xpu", "name", "persistence-m"],
    ["fan", "temp", "perf", "pwr:usage/cap"],
)
_FIRST = re.compile(r"(\d+)\s+(\S.*?)\s+(?:On|Off|N/A)")
_PLACE = re.compile(r"([0-9a-fA-F:.]+)\s+\S+")
_VALUES = re.compile(r"(\S+)\s+(\S+)\s+(\S+)\s+(\S+)\s*/\s*(\S+)")
_MEMORY = re.compile(r"(\S+)\s*/\s*(\S+)")


def read(machine: Machine, memory: Memory) -> Reading:
    """Everything that is seen of Kunlunxin XPUs now. Positions are the numbers that xpu-smi gives. A machine without one on
    its bus has none, whatever tool it has."""
    bus = on_the_bus(machine, PCI_VENDORS)
    if not bus and "inventory.devices" not in memory:
        return Reading(VENDOR)
    try:
        listed = parse(printed(machine, _TABLE))
    except Unreadable as error:
        listed = Listing(complete=False, unread=[Unread(TOOL, str(error))])
    _identify(machine, memory, listed)
    return assembled(VENDOR, listed, bus, memory, kept_order([board.address for board in listed.boards], memory))


def parse(text: str) -> Listing:
    """The devices in the table; three lines each. What ends early, or is another vendor's, is not `complete`."""
    found = Listing()
    if "Intel" in text:
        return Listing(complete=False, unread=[Unread(TOOL, "is Intel's tool, which has the same name")])
    version = re.search(r"\| XPU-SMI\s.*Driver Version:\s*(\S+)", text)
    if version:
        found.versions["driver"] = version[1]
    heads, ended = 0, False
    rows: list[list[str]] = []
    for row in (line for raw in text.splitlines() if (line := cells(raw)) is not None):
        if words(row[0])[:1] == ["processes:"]:
            ended = True
        elif ended or len(row) != 3 or set(row[0]) <= {"=", "-", "+"}:
            continue
        elif words(row[0]) in _HEADS:
            heads += 1
        elif heads == len(_HEADS) and row[0] and "L3-Usage" not in row[1]:
            rows.append(row)
    for head, row in zip(rows[::2], rows[1::2], strict=False):
        _add(found, head, row)
    if not ended or len(rows) % 2 or heads != len(_HEADS):
        found.leave_out(TOOL, "the table ends early, or has a form that is not known")
    return found


def _add(found: Listing, head: list[str], row: list[str]) -> None:
    """One device: number, name, place and errors; temperature, power, memory and use."""
    name, place = _FIRST.fullmatch(head[0]), _PLACE.fullmatch(head[1])
    address = pci_address(place[1]) if place else None
    if name is None or address is None:
        found.leave_out(TOOL, f"a device that cannot be read: {' | '.join(head)[:200]}")
        return
    findings = Findings(TOOL, _ESSENTIAL)
    found.boards.append(Board(address, f"pci-{address}", name[2], findings))
    values, memory, use = _VALUES.fullmatch(row[0]), _MEMORY.fullmatch(row[1]), row[2].split()
    if values is None or memory is None or not use:
        findings.doubt(f"its values cannot be read: {' | '.join(row)}"[:200])
        return
    findings.measure("temperature_celsius", values[2])
    findings.measure("power_watts", values[4])
    findings.measure("power_limit_watts", values[5])
    findings.measure("memory_used_bytes", memory[1])
    findings.measure("memory_total_bytes", memory[2])
    findings.measure("utilization_ratio", use[0])
    findings.measure("ecc_uncorrected_total", head[2])


def _identify(machine: Machine, memory: Memory, listed: Listing) -> None:
    """Serial numbers, asked for when a device is new: they are burnt in."""
    serials: dict[str, str] = memory.setdefault("serials", {})
    if any(board.address not in serials for board in listed.boards):
        try:
            serials |= dict(_serials(printed(machine, _QUERY)))
        except Unreadable as error:
            listed.unread.append(Unread(" ".join(_QUERY), str(error)))
    for board in listed.boards:
        if board.address in serials:
            board.serial = serials[board.address]
        else:
            board.findings.doubt("xpu-smi -q: names no serial number of it")


def _serials(text: str) -> Iterator[tuple[str, str]]:
    """Address and serial number of each device; a device begins with its product's name."""
    serial = ""
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "Product Name":
            serial = ""
        elif name == "Serial Number":
            serial = value
        elif name == "Bus Id" and serial:
            address = pci_address(value)
            if address is not None:
                yield address, serial
            serial = ""
