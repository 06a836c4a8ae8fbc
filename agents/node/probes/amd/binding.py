"""GPUs by AMD's Python binding (`amdsmi`)."""

from __future__ import annotations

from typing import Any

from agents.node.probes.amd.states import ESSENTIAL, set_pages, set_violations
from agents.node.probes.boards import Board, Listing
from agents.node.probes.findings import Findings
from agents.node.probes.inventory import pci_address
from agents.node.probes.machine import Unreadable
from agents.node.probes.reading import Severity, Unread

SOURCE = "AMD SMI"
_ABSENT = ("NOT_SUPPORTED", "NOT_YET_IMPLEMENTED", "NO_PERM", "NO_DATA", "NOT_FOUND")
_VIOLATIONS = {
    "prochot": "active_prochot_thrm",
    "socket_thermal": "active_socket_thrm",
    "vr_thermal": "active_vr_thrm",
    "hbm_thermal": "active_hbm_thrm",
}


class AmdSmi:
    """The binding, initialised. Raises Unreadable when the library or its driver does not answer."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.error: type[Exception] = module.AmdSmiException
        wrapper = module.amdsmi_wrapper
        codes = (getattr(wrapper, f"AMDSMI_STATUS_{name}", None) for name in _ABSENT)
        self._absent = {code for code in codes if code is not None}
        try:
            module.amdsmi_init()
        except (self.error, OSError) as error:
            raise Unreadable(f"{SOURCE}: cannot be opened: {error}") from error

    def ask(self, found: Findings, name: str, *arguments: object) -> Any:
        """A call that a device may not support: None then. An error of another kind is a doubt."""
        function = getattr(self.module, f"amdsmi_{name}", None)
        if function is None:
            return None
        try:
            return function(*arguments)
        except self.error as error:
            if getattr(error, "err_code", None) not in self._absent:
                found.doubt(f"amdsmi_{name}: {' '.join(str(error).split())}")
            return None


def listing(library: AmdSmi) -> Listing:
    """All GPUs that the library names."""
    found, module = Listing(), library.module
    try:
        handles = module.amdsmi_get_processor_handles()
    except library.error as error:
        return Listing(complete=False, unread=[Unread(SOURCE, " ".join(str(error).split()))])
    for number, handle in enumerate(handles):
        try:
            address = pci_address(str(module.amdsmi_get_gpu_device_bdf(handle)))
            uuid = str(module.amdsmi_get_gpu_device_uuid(handle))
            model = str(module.amdsmi_get_gpu_asic_info(handle)["market_name"])
        except library.error as error:
            found.leave_out(SOURCE, f"device {number}: {' '.join(str(error).split())}")
            continue
        if address is None:
            found.leave_out(SOURCE, f"device {number} has no PCI address that can be read")
        elif all(board.address != address for board in found.boards):
            board = Board(address, uuid, model, Findings(SOURCE, ESSENTIAL))
            _read(library, handle, board.findings)
            found.boards.append(board)
            driver = library.ask(board.findings, "get_gpu_driver_info", handle)
            if isinstance(driver, dict) and "driver_version" in driver:
                found.versions.setdefault("driver", str(driver["driver_version"]))
    return found


def _read(library: AmdSmi, handle: object, found: Findings) -> None:
    module = library.module

    def ask(name: str, *arguments: object) -> dict[str, Any]:
        return library.ask(found, name, handle, *arguments) or {}

    def heat(sensor: str) -> str | None:
        kind = getattr(module.AmdSmiTemperatureType, sensor)
        value = library.ask(found, "get_temp_metric", handle, kind, module.AmdSmiTemperatureMetric.CURRENT)
        return None if value is None else str(value)

    hottest = next((text for sensor in ("HOTSPOT", "EDGE") if (text := heat(sensor)) not in (None, "N/A")), "N/A")
    found.measure("temperature_celsius", hottest)
    power = ask("get_power_info")
    watts = [str(power.get(name, "N/A")) for name in ("current_socket_power", "average_socket_power")]
    found.measure("power_watts", next((text for text in watts if text != "N/A"), "N/A"))
    memory, pcie, ecc = ask("get_gpu_vram_usage"), ask("get_pcie_info"), ask("get_gpu_total_ecc_count")
    static, metric = pcie.get("pcie_static", {}), pcie.get("pcie_metric", {})
    texts = {
        "memory_temperature_celsius": (heat("VRAM"), ""),
        "utilization_ratio": (ask("get_gpu_activity").get("gfx_activity"), "%"),
        "memory_used_bytes": (memory.get("vram_used"), "MB"),
        "memory_total_bytes": (memory.get("vram_total"), "MB"),
        "clock_hertz": (ask("get_clock_info", module.AmdSmiClkType.GFX).get("clk"), "MHz"),
        "pcie_width": (metric.get("pcie_width"), ""),
        "pcie_width_max": (static.get("max_pcie_width"), ""),
        "pcie_replays_total": (metric.get("pcie_replay_count"), ""),
        "ecc_corrected_total": (ecc.get("correctable_count"), ""),
        "ecc_uncorrected_total": (ecc.get("uncorrectable_count"), ""),
    }
    for name, (value, unit) in texts.items():
        found.measure(name, None if value is None else str(value), unit=unit)
    violations = ask("get_violation_status")
    active = {name: _flag(violations.get(key)) for name, key in _VIOLATIONS.items()}
    set_violations(found, active, throttled=None)
    errors = library.ask(found, "gpu_xgmi_error_status", handle)
    if errors is not None and errors != module.AmdSmiXgmiStatus.NO_ERRORS:
        word = module.AmdSmiXgmiStatus(errors).name.lower()
        found.fault("XGMI-ERROR", Severity.MINOR, f"the links between GPUs report: {word}")
    _read_pages(library, handle, found)


def _read_pages(library: AmdSmi, handle: object, found: Findings) -> None:
    pages = library.ask(found, "get_gpu_bad_page_info", handle)
    if not isinstance(pages, list):
        set_pages(found, None)
        return
    status = library.module.AmdSmiMemoryPageStatus
    kinds = {"retired": status.RESERVED, "pending": status.PENDING, "un_res": status.UNRESERVABLE}
    set_pages(found, {name: sum(page["status"] == kind for page in pages) for name, kind in kinds.items()})


def _flag(value: object) -> bool | None:
    return bool(value) if isinstance(value, int) else None
