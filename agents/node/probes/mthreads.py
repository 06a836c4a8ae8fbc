"""Moore Threads: MTML by its binding (`mthreads-ml-py`) or `mthreads-gmi -q --json`.

The tool tells of temperature, power, memory, load and clocks; errors of memory, retired pages and MtLinks are in the library only,
and so are blind spots where only the tool is there.
"""

from __future__ import annotations

from typing import Any

from agents.node.probes.boards import Board, Listing, assembled, opened
from agents.node.probes.documents import at, document, rows, shown
from agents.node.probes.findings import Findings
from agents.node.probes.inventory import on_the_bus, pci_address
from agents.node.probes.machine import Machine, Memory, Unreadable
from agents.node.probes.nvml import Nvml
from agents.node.probes.quantity import GarbledError
from agents.node.probes.reading import Reading, Severity, Unread
from agents.node.probes.sysfs import read_lanes

VENDOR = "mthreads"
PCI_VENDORS = frozenset({"1ed5"})
PROVEN = "https://github.com/chengminhua/musatop/blob/main/tests/fixtures/gmi_query.json"

_BINDING = "pymtml"
_TOOL = "mthreads-gmi"
_QUERY = (_TOOL, "-q", "--json")
_ESSENTIAL = frozenset({"temperature_celsius"})
_LINK_DOWN, _LINK_SLOW = 0, 2
_LIBRARY_ONLY = ("ecc_corrected_total", "ecc_uncorrected_total", "retired_pages", "retired_pages_pending")


def read(machine: Machine, memory: Memory) -> Reading:
    """Everything that is seen of Moore Threads GPUs now; positions are those of the PCI bus."""
    bus = on_the_bus(machine, PCI_VENDORS)
    library = opened(machine, memory, _BINDING, lambda module: Nvml(module, "mtml", "LibraryInit"))
    if library is None and not bus and not machine.has_tool(_TOOL):
        return Reading(VENDOR)
    listed = _by_library(library) if library is not None else _by_tool(machine)
    for board in listed.boards:
        read_lanes(board.findings, machine, board.address)
    return assembled(VENDOR, listed, bus, memory)


def _by_tool(machine: Machine) -> Listing:
    source = " ".join(_QUERY)
    try:
        out = machine.run(_QUERY)
        value = {str(key).strip(): item for key, item in at({"all": document(out.stdout)}, "all").items()}
        gpus = rows(value, "GPU")
    except (Unreadable, GarbledError, AttributeError) as error:
        return Listing(complete=False, unread=[Unread(source, str(error))])
    found = Listing(announced=str(value.get("Attached GPUs", "")).strip())
    if out.code != 0 or found.announced != str(len(gpus)):
        text = f"ended with code {out.code}, lists {len(gpus)} GPUs and announces {found.announced[:20] or 'no number'}"
        found.leave_out(source, text)
    driver = value.get("Driver Version")
    if isinstance(driver, str):
        found.versions["driver"] = driver.strip()
    for gpu in gpus:
        row = _without_spaces(gpu)
        address, uuid = pci_address(str(at(row, "PCI", "Bus ID"))), row.get("GPU UUID")
        if address is None or not isinstance(uuid, str):
            found.leave_out(source, f"GPU {str(row.get('Index'))[:20]} has no address and UUID that can be read")
            continue
        findings = Findings(source, _ESSENTIAL)
        _read_row(findings, row)
        found.boards.append(Board(address, uuid.strip(), str(row.get("Product Name", "")).strip(), findings))
    return found


def _without_spaces(row: Any) -> dict[str, Any]:
    """Keys without the spaces that the tool leaves at their ends (`"Power Draw "`)."""
    return {
        str(key).strip(): _without_spaces(value) if isinstance(value, dict) else value for key, value in row.items()
    }


def _read_row(found: Findings, row: dict[str, Any]) -> None:
    for section in ("Temperature", "FB Memory Usage", "Power Readings"):
        if not isinstance(row.get(section), dict):
            found.doubt(f"there is no {section}: a form of the list that is not known")
    paths = {
        "temperature_celsius": ("Temperature", "GPU Current Temp"),
        "power_watts": ("Power Readings", "Power Draw"),
        "power_limit_watts": ("Power Readings", "Current Power Limit"),
        "utilization_ratio": ("Utilization", "Gpu"),
        "memory_used_bytes": ("FB Memory Usage", "Used"),
        "memory_total_bytes": ("FB Memory Usage", "Total"),
        "clock_hertz": ("Clocks", "Graphics"),
    }
    for name, path in paths.items():
        found.measure(name, shown(at(row, *path)))
    if found.value("power_limit_watts") == 0:  # what drivers before 3.3.8 print for "none"
        found.put("power_limit_watts", None)
    for name in _LIBRARY_ONLY:
        found.put(name, None)


def _by_library(library: Nvml) -> Listing:
    found, source = Listing(), "MTML"
    try:
        count = library.call("LibraryCountDevice")
    except library.error as error:
        return Listing(complete=False, unread=[Unread(source, str(error))])
    for index in range(count):
        try:
            device = library.call("LibraryInitDeviceByIndex", index)
        except library.error as error:
            found.leave_out(source, f"device {index}: {error}")
            continue
        try:
            address = pci_address(library.word(library.call("DeviceGetPciInfo", device).sbdf))
            uuid, model = (library.word(library.call(f"DeviceGet{name}", device)) for name in ("UUID", "Name"))
        except library.error as error:
            found.leave_out(source, f"device {index}: {error}")
        else:
            findings = Findings(source, _ESSENTIAL)
            links = _read_device(library, device, findings)
            if address is None:
                found.leave_out(source, f"device {index} has no PCI address that can be read")
            else:
                found.boards.append(Board(address, uuid, model, findings, links))
        finally:
            library.call("LibraryFreeDevice", device)
    _read_driver(library, found)
    return found


def _read_driver(library: Nvml, found: Listing) -> None:
    try:
        system = library.call("LibraryInitSystem")
        found.versions["driver"] = library.word(library.call("SystemGetDriverVersion", system))
        library.call("LibraryFreeSystem", system)
    except library.error as error:
        found.unread.append(Unread("MTML", f"driver version: {error}"))


def _read_device(library: Nvml, device: object, found: Findings) -> tuple[bool, ...] | None:
    def scaled(value: float | None, factor: float) -> float | None:
        return None if value is None else value * factor

    found.put("power_watts", scaled(library.ask(found, "DeviceGetPowerUsage", device), 1e-3))
    found.put("power_limit_watts", None)
    gpu = library.ask(found, "DeviceInitGpu", device)
    if gpu is not None:
        found.put("temperature_celsius", library.ask(found, "GpuGetTemperature", gpu))
        found.put("utilization_ratio", scaled(library.ask(found, "GpuGetUtilization", gpu), 0.01))
        found.put("clock_hertz", scaled(library.ask(found, "GpuGetClock", gpu), 1e6))
        library.ask(found, "DeviceFreeGpu", gpu)
    memory = library.ask(found, "DeviceInitMemory", device)
    if memory is not None:
        found.put("memory_used_bytes", library.ask(found, "MemoryGetUsed", memory))
        found.put("memory_total_bytes", library.ask(found, "MemoryGetTotal", memory))
        _read_errors(library, memory, found)
        library.ask(found, "DeviceFreeMemory", memory)
    return _read_links(library, device, found)


def _read_errors(library: Nvml, memory: object, found: Findings) -> None:
    lifetime, place = library.constant("AGGREGATE_ECC"), library.constant("MEMORY_LOCATION_DRAM")
    for name, kind in (("ecc_corrected_total", "CORRECTED"), ("ecc_uncorrected_total", "UNCORRECTED")):
        code = library.constant(f"MEMORY_ERROR_TYPE_{kind}")
        found.put(name, library.ask(found, "MemoryGetEccErrorCounter", memory, code, lifetime, place))
    pages = library.ask(found, "MemoryGetRetiredPagesCount", memory)
    found.put("retired_pages", None if pages is None else pages.singleBitEcc + pages.doubleBitEcc)
    pending = library.ask(found, "MemoryGetRetiredPagesPendingStatus", memory)
    found.put("retired_pages_pending", None if pending is None else float(bool(pending)))
    if pending:
        found.fault("PAGES-PENDING", Severity.HINT, "memory pages wait to be taken out of use")


def _read_links(library: Nvml, device: object, found: Findings) -> tuple[bool, ...] | None:
    spec = library.ask(found, "DeviceGetMtLinkSpec", device)
    if spec is None:
        return None
    states = [
        library.ask(found, "DeviceGetMtLinkState", device, number) for number in range(min(int(spec.linkNum), 64))
    ]
    slow = sum(state == _LINK_SLOW for state in states)
    if slow:
        found.fault("LINK-SLOW", Severity.MINOR, f"{slow} MtLinks run at a lower rate")
    return tuple(state != _LINK_DOWN for state in states if state is not None)
