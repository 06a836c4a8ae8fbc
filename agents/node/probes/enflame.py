"""Enflame GCUs: `efsmi -q`. No event interface and no binding are public, so everything is polled."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agents.node.probes.boards import Board, Listing, assembled
from agents.node.probes.findings import Findings
from agents.node.probes.inventory import on_the_bus, pci_address
from agents.node.probes.machine import Machine, Memory, PciDevice, Unreadable
from agents.node.probes.reading import Reading, Severity, Unread
from agents.node.probes.text import kept_order, printed

VENDOR = "enflame"
PCI_VENDORS = frozenset({"1e36"})
PROVEN = "https://github.com/zstackio/zstack-utility/blob/master/zstacklib/zstacklib/gpu/vendors/enflame.py"

TOOL = "efsmi"
_QUERY = (TOOL, "-q")
_DEVICE = re.compile(r"DEV ID (\d{1,5})\s*$")
_ESSENTIAL = frozenset({"temperature_celsius"})
_HOT_CELSIUS = 95.0  # above it the card throttles (vendor's guide of alarms)
_HEALTHY = {"true": True, "false": False}
_FLAGGED = {"false": False, "true": True}
_CABLE = {"normal": True, "abnormal": False}

Fields = Mapping[str, str]


def read(machine: Machine, memory: Memory) -> Reading:
    """Everything that is seen of Enflame GCUs now. Positions are the numbers that efsmi gives."""
    bus = on_the_bus(machine, PCI_VENDORS)
    if not bus and not machine.has_tool(TOOL):
        return Reading(VENDOR)
    try:
        listed = listing(printed(machine, _QUERY), bus)
    except Unreadable as error:
        listed = Listing(complete=False, unread=[Unread(" ".join(_QUERY), str(error))])
    return assembled(VENDOR, listed, bus, memory, kept_order([board.address for board in listed.boards], memory))


def listing(text: str, bus: tuple[PciDevice, ...]) -> Listing:
    """The devices of `efsmi -q`. The list has no end of its own: it is complete when it has all that the bus shows."""
    found = Listing()
    for number, told in devices(text):
        place = (told.get(f"pcie info/{name}", "") for name in ("domain", "bus", "dev", "func"))
        address = pci_address("{}:{}:{}.{}".format(*place))
        if address is None:
            found.leave_out(" ".join(_QUERY), f"device {number} has no PCI address that can be read")
            continue
        findings = Findings(" ".join(_QUERY), _ESSENTIAL)
        serial = told.get("device info/dev sn", "")
        if not serial:
            findings.doubt("it names no serial number")
        found.boards.append(Board(address, serial or f"pci-{address}", told.get("device info/dev name", ""), findings))
        _fill_values(findings, told)
        _fill_states(findings, told)
        if "driver info/ver" in told:
            found.versions["driver"] = told["driver info/ver"]
    named = {board.address for board in found.boards}
    if not found.boards:
        found.leave_out(" ".join(_QUERY), "lists no device")
    found.complete = found.complete and all(row.address in named for row in bus)
    return found


def devices(text: str) -> list[tuple[int, Fields]]:
    """Number and fields of each device; a field is named `section/name`, in lower case."""
    found: list[tuple[int, Fields]] = []
    told: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        device = _DEVICE.match(line.strip())
        if device is not None:
            told, section = {}, ""
            found.append((int(device[1]), told))
            continue
        name, colon, value = line.partition(":")
        word = " ".join(name.lower().split())
        if colon:
            told.setdefault(f"{section}/{word}", value.strip())
        elif word and word != "link info":  # its fields follow those of the PCIe section
            section = word
    return found


def _fill_values(found: Findings, told: Fields) -> None:
    texts = {
        "temperature_celsius": ("temperature info/gcu temp",),
        "power_watts": ("power info/cur power",),
        "power_limit_watts": ("power info/power capa",),
        "utilization_ratio": ("device usage info/gcu usage",),
        "memory_total_bytes": ("device mem info/total size", "device mem info/mem size"),
        "memory_used_bytes": ("device mem info/used size", "device mem info/mem usage"),
        "pcie_width": ("pcie info/cur link width",),
        "pcie_width_max": ("pcie info/max link width",),
        "ecc_uncorrected_total": ("rma info/total dbe",),
    }
    for name, paths in texts.items():
        text = next((told[path] for path in paths if path in told), None)
        if text is None:
            found.garbled.append(f"{name}: efsmi does not tell it")
        else:
            found.measure(name, text.removeprefix("X") if name.startswith("pcie_width") else text)
    heat = found.value("temperature_celsius")
    if heat is not None and heat > _HOT_CELSIUS:
        found.fault("THERMAL", Severity.MAJOR, f"{heat:g} degrees Celsius: the card throttles above {_HOT_CELSIUS:g}")


def _fill_states(found: Findings, told: Fields) -> None:
    healthy = found.state("health", told.get("device info/health"), _HEALTHY)
    if healthy is None:
        found.doubt("it does not tell its health")
    elif not healthy:
        found.fault("VENDOR-UNHEALTHY", Severity.CRITICAL, "efsmi calls it unhealthy, which no reset cures")
    if found.state("RMA flag", told.get("rma info/flags"), _FLAGGED):
        found.fault("RMA-FLAG", Severity.CRITICAL, "the card asks to be returned to its vendor")
    if found.state("power cable", told.get("power cable/status"), _CABLE) is False:
        found.fault("POWER-CABLE", Severity.MAJOR, "the power cable is not as it should be")
