"""T-Head Zhenwu PPU: HGML (an NVML under another name) by its binding, or `ppu-smi -q`, and the XIDs of the kernel log.

XIDs of PPUs are not NVIDIA's: a number is 256 x the reporting block + an event from 128 on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from agents.node.probes.boards import Board, Listing, assembled, opened, places
from agents.node.probes.driver_states import findings, set_state, set_throttling
from agents.node.probes.findings import Findings, coalesced
from agents.node.probes.inventory import address_in, on_the_bus, pci_address
from agents.node.probes.machine import KernelLine, Machine, Memory, Unreadable
from agents.node.probes.nvml import Nvml
from agents.node.probes.nvml import listing as hgml_listing
from agents.node.probes.nvml_events import xids
from agents.node.probes.outline import Outline, headed, outline
from agents.node.probes.reading import Assertion, Fault, Reading, Severity, Unread

VENDOR = "thead"
PCI_VENDORS = frozenset({"1ded"})
PROVEN = "https://developer.t-head.cn/docs_center/doc_detail/index.html?projectId=39&chapterId=221"

_BINDING = "gpustack_runtime.detector.pyhgml"
_TOOL = "ppu-smi"
_QUERY = (_TOOL, "-q")
_PPU = re.compile(r"PPU ([0-9a-fA-F:.]+)")
_XID = re.compile(r"alixpu.*\bxid\b\D{0,12}(\d{3,5})\b", re.IGNORECASE)
_YES = {"yes": True, "no": False}
_ACTIVE = {"active": True, "not active": False}
_SECTIONS = ("PCI", "Memory Usage", "ECC Errors", "Temperature", "Power Readings", "Remapped Rows")
_KINDS = ("SRAM", "DRAM")


def read(machine: Machine, memory: Memory) -> Reading:
    """Everything that is seen of PPUs now. Positions are those of the PCI bus; `ppu-smi` numbers PPUs in an order of its own,
    which may change at a reboot."""
    bus = on_the_bus(machine, PCI_VENDORS)
    library = opened(machine, memory, _BINDING, lambda module: Nvml(module, "hgml"))
    if library is None and not bus and not machine.has_tool(_TOOL):
        return Reading(VENDOR)
    listed = hgml_listing(library, "HGML", "IcnLink") if library is not None else _by_tool(machine)
    reading = assembled(VENDOR, listed, bus, memory)
    try:
        logged = _xids(machine.kernel_log(), places(reading))
    except Unreadable as error:
        told = None if library is None else xids(library, memory, places(reading), machine.now_ns())
        text = "XIDs are not seen" if told is None else "only those XIDs are seen that HGML tells"
        blind = Unread("kernel log", f"{text}: {error}", events_only=True)
        return replace(reading, faults=(*reading.faults, *(told or ())), unread=(*reading.unread, blind))
    return replace(reading, faults=(*reading.faults, *logged))


def _xids(lines: Iterable[KernelLine], at: Mapping[str, int]) -> tuple[Fault, ...]:
    """XIDs in the log. The form of its lines is not published: a number that is in no table is called minor, so that a line
    which we misread is observed and isolates nobody."""
    found = []
    for line in lines:
        told = _XID.search(line.text)
        if told is None or not _is_xid(int(told[1])):
            continue
        index = at.get(address_in(line.text) or "")
        entity = "node" if index is None else f"accelerator/{index}"
        code = f"XID-{told[1]}"
        found.append(Fault(entity, code, Severity.MINOR, Assertion.ONCE, line.sequence, line.at_ns, line.text[:400]))
    return coalesced(found)


def _is_xid(number: int) -> bool:
    """Whether a number is built as T-Head's are: a block from 1 on, an event from 128 on."""
    return number >> 8 >= 1 and number & 0xFF >= 128


def _by_tool(machine: Machine) -> Listing:
    source = " ".join(_QUERY)
    try:
        out = machine.run(_QUERY)
    except Unreadable as error:
        return Listing(complete=False, unread=[Unread(source, str(error))])
    top = outline(out.stdout)
    found = Listing(announced=top.get("Attached PPUs") or "")
    ppus = list(headed(top, _PPU))
    if out.code != 0 or found.announced != str(len(ppus)):
        said = " ".join((out.stderr or out.stdout).split())[:200] if not ppus else ""
        text = f"ended with code {out.code}, lists {len(ppus)} PPUs and announces {found.announced[:20] or 'no number'}: {said}"
        found.leave_out(source, text)
    for name, key in (("driver", "Driver Version"), ("sdk", "SDK Version")):
        if version := top.get(key):
            found.versions[name] = version
    for heading, ppu in ppus:
        address, uuid = pci_address(heading[1]), ppu.get("PPU UUID")
        if address is None or not uuid:
            found.leave_out(source, f"PPU {heading[1][:40]} has no PCI address or UUID that can be read")
            continue
        board = findings(source)
        _read_metrics(board, ppu)
        _read_states(board, ppu)
        found.boards.append(Board(address, uuid, ppu.get("Product Name") or "PPU", board))
    return found


def _value(found: Findings, ppu: Outline, *path: str) -> str | None:
    """A value; that a section is there without it is a doubt: it was cut, or its form is not known."""
    text = ppu.get(*path)
    if text is None and ppu.part(*path[:-1]) is not None:
        found.doubt(f"{' / '.join(path)} is missing")
    return text


def _read_metrics(found: Findings, ppu: Outline) -> None:
    for section in _SECTIONS:
        if ppu.part(section) is None:
            found.doubt(f"there is no {section}: the list was cut, or its form is not known")
    link = ("PCI", "PPU Link Info", "Link Width")
    paths = {
        "temperature_celsius": ("Temperature", "PPU Current Temp"),
        "memory_temperature_celsius": ("Temperature", "Memory Current Temp"),
        "power_watts": ("Power Readings", "Power Draw"),
        "power_limit_watts": ("Power Readings", "Enforced Power Limit"),
        "utilization_ratio": ("Utilization", "Ppu"),
        "memory_used_bytes": ("Memory Usage", "Used"),
        "memory_total_bytes": ("Memory Usage", "Total"),
        "clock_hertz": ("Clocks", "CU"),
        "pcie_width": (*link, "Current"),
        "pcie_width_max": (*link, "Max"),
        "pcie_replays_total": ("PCI", "Replays Since Reset"),
    }
    for name, path in paths.items():
        found.measure(name, _value(found, ppu, *path))
    for name, kind in (("ecc_corrected_total", "Correctable"), ("ecc_uncorrected_total", "Uncorrectable")):
        found.measure(name, *(_value(found, ppu, "ECC Errors", "Aggregate", f"{memory} {kind}") for memory in _KINDS))
    found.measure(
        "retired_pages",
        *(_value(found, ppu, "Remapped Rows", f"{kind} Error") for kind in ("Correctable", "Uncorrectable")),
    )


def _read_states(found: Findings, ppu: Outline) -> None:
    pending = found.state("Pending", _value(found, ppu, "Remapped Rows", "Pending"), _YES)
    found.put("retired_pages_pending", None if pending is None else float(pending))
    set_state(found, "pages_pending", pending)
    failed = _value(found, ppu, "Remapped Rows", "Remapping Failure Occurred")
    set_state(found, "row_remap_failure", found.state("Remapping Failure Occurred", failed, _YES))
    reasons = ppu.part("Clocks Throttle Reasons")
    words = {"hw_thermal_slowdown": "HW Thermal Slowdown", "hw_power_brake": "HW Power Brake Slowdown"}
    held = {
        name: found.state(word, _value(found, reasons, word) if reasons else None, _ACTIVE)
        for name, word in words.items()
    }
    slow = _value(found, reasons, "SW Thermal Slowdown") if reasons else None
    set_throttling(found, held | {"sw_thermal_slowdown": found.state("SW Thermal Slowdown", slow, _ACTIVE)})
    for key in ("PPU Reset Correctable", "OS Reboot Correctable", "Cold Reboot Correctable"):
        text = ppu.get("Xid Errors", key) or "N/A"
        numbers = [int(number) for number in re.findall(r"\d{1,9}", text)]
        for number in filter(_is_xid, numbers):
            found.fault(f"XID-{number}", Severity.CRITICAL, f"{key.removesuffix(' Correctable').lower()} is asked for")
        if not numbers and text.lower() not in found.unsupported:
            found.doubt(f"Xid Errors / {key}: {text[:60]!r} is nothing that is known")
