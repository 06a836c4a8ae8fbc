"""Cambricon MLUs as `cnmon info` tells of them: indented `name : value` lines, a block per card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from agents.node.probes.boards import Board, Listing
from agents.node.probes.cambricon.states import ESSENTIAL, set_device, set_driver
from agents.node.probes.findings import Findings
from agents.node.probes.inventory import pci_address
from agents.node.probes.machine import Machine, PciDevice, Unreadable
from agents.node.probes.reading import Unread
from agents.node.probes.text import printed

TOOL = "cnmon"
_QUERY = (TOOL, "info")
_CARD = re.compile(r"Card (\d{1,5})\s*$")
_SECTION_INDENT = 4


def listing(machine: Machine, bus: Sequence[PciDevice]) -> Listing:
    """All cards. The list has no end of its own: it is complete when it has all that the bus shows."""
    try:
        text = printed(machine, _QUERY)
    except Unreadable as error:
        return Listing(complete=False, unread=[Unread(" ".join(_QUERY), str(error))])
    found = parse(text)
    named = {board.address for board in found.boards}
    found.complete = found.complete and bool(named) and all(row.address in named for row in bus)
    if not found.boards:
        found.unread.append(Unread(" ".join(_QUERY), "lists no card"))
    return found


def parse(text: str) -> Listing:
    """The cards of `cnmon info`."""
    found = Listing()
    for number, told in _cards(text):
        place = (told.get(f"pci/{name}", "") for name in ("domain id", "bus num", "device", "function"))
        address = pci_address("{}:{}:{}.{}".format(*place))
        if address is None:
            found.leave_out(" ".join(_QUERY), f"card {number} has no PCI address that can be read")
            continue
        findings = Findings(" ".join(_QUERY), ESSENTIAL)
        uuid = told.get("uuid", "")
        if not uuid:
            findings.doubt("it names no UUID")
        board = Board(address, f"MLU-{uuid}" if uuid else f"pci-{address}", told.get("product name", ""), findings)
        found.boards.append(board)
        _fill(findings, told)
        if "driver" in told:
            found.versions["driver"] = told["driver"].removeprefix("v")
    return found


def _cards(text: str) -> list[tuple[int, Mapping[str, str]]]:
    """Number and fields of each card; a field of a section is named `section/name`, in lower case."""
    found: list[tuple[int, Mapping[str, str]]] = []
    told: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        card = _CARD.match(line)
        if card is not None:
            told, section = {}, ""
            found.append((int(card[1]), told))
            continue
        name, colon, value = line.partition(":")
        word, indent = " ".join(name.lower().split()), len(line) - len(line.lstrip())
        if not colon or not word:
            continue
        if indent <= _SECTION_INDENT:
            section = "" if value.strip() else word
        if value.strip():
            told.setdefault(f"{section}/{word}" if section and indent > _SECTION_INDENT else word, value.strip())
    return found


def _fill(found: Findings, told: Mapping[str, str]) -> None:
    for name, path in {
        "temperature_celsius": "temperature/chip",
        "memory_temperature_celsius": "temperature/memory",
        "power_watts": "power/usage",
        "power_limit_watts": "power/cap",
        "utilization_ratio": "utilization/mlu average",
        "memory_used_bytes": "physical memory usage/used",
        "memory_total_bytes": "physical memory usage/total",
    }.items():
        if path in told:
            found.measure(name, told[path])
        else:
            found.garbled.append(f"{name}: cnmon info does not tell it")
    set_device(found, told.get("health state/device"))
    set_driver(found, told.get("health state/driver"))
