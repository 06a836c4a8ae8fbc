"""Hygon DCU: `hy-smi` in JSON, error counters and lanes in sysfs, and what the driver logs.

The tool is a descendant of rocm-smi, the driver one of amdgpu. Seen in the wild: JSON without commas between some values, keys
that say HCU or DCU, memory in B or MiB.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from agents.node.probes.amdgpu_log import words
from agents.node.probes.boards import Board, Listing, assembled
from agents.node.probes.documents import document, mended
from agents.node.probes.findings import Findings
from agents.node.probes.inventory import address_in, on_the_bus
from agents.node.probes.kernel_words import with_log
from agents.node.probes.machine import Machine, Memory, Unreadable
from agents.node.probes.quantity import GarbledError
from agents.node.probes.reading import Reading, Unread
from agents.node.probes.sysfs import file_text, read_lanes

VENDOR = "hygon"
PCI_VENDORS = frozenset({"1d94", "1e83"})
PROVEN = "constructed"

_TOOL = "hy-smi"
_QUERY = (
    _TOOL, "--showuniqueid", "--showbus", "--showproductname", "--showmeminfo", "vram", "--showuse", "--showtemp",
    "--showpower", "--showclocks", "--json",
)  # fmt: skip
_DRIVERS = ("/sys/module/hycu/version", "/sys/module/hydcu/version")
_CARD = re.compile(r"card\d{1,5}")
_HEAT = ("junction", "core", "edge")
_ESSENTIAL = frozenset({"temperature_celsius"})
_UNSUPPORTED = Findings("").unsupported | {"unsupported", "unknown", "n/a (c)"}
_COUNT = re.compile(r"^(ue|ce):\s*(\d+)\s*$", re.MULTILINE)
_WORDS = words("amdgpu", "hydcu", "hycu")


def read(machine: Machine, memory: Memory) -> Reading:
    """Everything that is seen of Hygon DCUs now; positions are those of the PCI bus."""
    bus = on_the_bus(machine, PCI_VENDORS)
    if not bus and not machine.has_tool(_TOOL):
        return Reading(VENDOR)
    listed = _listing(machine)
    reading = assembled(VENDOR, listed, bus, memory)
    return with_log(reading, machine, _WORDS, "resets and RAS errors")


def _listing(machine: Machine) -> Listing:
    source = f"{_TOOL} --json"
    try:
        out = machine.run(_QUERY)
        cards = parse(out.stdout)
    except (Unreadable, GarbledError) as error:
        return Listing(complete=False, unread=[Unread(source, str(error))])
    found = Listing()
    if out.code != 0 or not cards:
        found.leave_out(source, f"ended with code {out.code} and {len(cards)} cards: {out.stderr.strip()[:300]}")
    for name, card in cards.items():
        address = address_in(card.get("PCI Bus", ""))
        if address is None:
            found.leave_out(source, f"{name} has no PCI address that can be read")
            continue
        findings = Findings(source, _ESSENTIAL, _UNSUPPORTED)
        _read_card(findings, card)
        read_lanes(findings, machine, address)
        _read_counters(findings, machine, address)
        model = card.get("Card Series") or card.get("Card series") or "Hygon DCU"
        found.boards.append(Board(address, card.get("Unique ID", ""), model, findings))
    for path in _DRIVERS:
        if path.rpartition("/")[2] in machine.names(path.rpartition("/")[0]):
            found.versions["driver"] = machine.text(path).strip()
    return found


def parse(text: str) -> dict[str, dict[str, str]]:
    """Values by key for each card, in the order of the cards.

    Raises:
        GarbledError: the text is no JSON of cards, also when commas and units are mended.
    """
    try:
        value = document(text)
    except GarbledError:
        value = document(mended(text))
    if not isinstance(value, dict):
        raise GarbledError("is no JSON object of cards")
    cards = {name: card for name, card in value.items() if _CARD.fullmatch(name) and isinstance(card, dict)}
    ordered = sorted(cards, key=lambda name: int(name.removeprefix("card")))
    return {name: {key.strip(): str(item).strip() for key, item in cards[name].items()} for name in ordered}


def _first(card: Mapping[str, str], patterns: Sequence[str]) -> tuple[str, str]:
    """The first value that is one of the keys that fit the patterns, and the unit in the key; ("N/A", "") when there is none."""
    for pattern in patterns:
        for key, value in card.items():
            if (found := re.fullmatch(pattern, key)) and value.lower() not in _UNSUPPORTED:
                return value.strip("()"), found[1] if found.groups() else ""
    return "N/A", ""


def _read_card(found: Findings, card: Mapping[str, str]) -> None:
    quantities = {
        "temperature_celsius": tuple(rf"Temperature \(Sensor {sensor}\) \((C)\)" for sensor in _HEAT),
        "memory_temperature_celsius": (r"Temperature \(Sensor mem\) \((C)\)",),
        "power_watts": (r"Average Graphics Package Power \((W)\)",),
        "utilization_ratio": (r"[DHG][CP]U use \((%)\)",),
        "memory_used_bytes": (r"(?i:vram) Total Used Memory \((B|MiB)\)",),
        "memory_total_bytes": (r"(?i:vram) Total Memory \((B|MiB)\)",),
        "clock_hertz": (r"sclk clock speed:?",),
    }
    for name, patterns in quantities.items():
        text, unit = _first(card, patterns)
        found.measure(name, text, unit=unit)


def _read_counters(found: Findings, machine: Machine, address: str) -> None:
    """The driver's error counters, of which the tool says nothing."""
    folder = f"/sys/bus/pci/devices/{address}/ras"
    counts: dict[str, list[str]] = {"ue": [], "ce": []}
    for name in machine.names(folder):
        if name.endswith("_err_count"):
            text = file_text(found, machine, f"{folder}/{name}") or ""
            told = dict(_COUNT.findall(text))
            if not told:
                found.garbled.append(f"{name}: {text[:40]!r} holds no counters")
            for kind, number in told.items():
                counts[kind].append(number)
    found.measure("ecc_uncorrected_total", *(counts["ue"] or ["N/A"]))
    found.measure("ecc_corrected_total", *(counts["ce"] or ["N/A"]))
