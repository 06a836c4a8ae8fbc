"""NVML by its Python binding, and bindings that copy it under another prefix: calls, and what their errors mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agents.node.probes.boards import Board, Listing
from agents.node.probes.driver_states import findings, set_fabric, set_recovery, set_state, set_throttling
from agents.node.probes.findings import Findings
from agents.node.probes.inventory import pci_address
from agents.node.probes.machine import Unreadable
from agents.node.probes.reading import Severity

_ABSENT = (
    "NOT_SUPPORTED", "FUNCTION_NOT_FOUND", "INVALID_ARGUMENT", "NO_PERMISSION", "DEPRECATED", "NO_DATA", "NOT_FOUND",
    "ARGUMENT_VERSION_MISMATCH", "VGPU_ECC_NOT_SUPPORTED",
)  # fmt: skip
_THROTTLING = {"hw_slowdown": 0x08, "sw_thermal_slowdown": 0x20, "hw_thermal_slowdown": 0x40, "hw_power_brake": 0x80}
_RECOVERY_ACTIONS = ("none", "reset", "reboot", "drain p2p", "drain and reset", "reset bus")
_FABRIC_STATES = ("n/a", "not started", "in progress", "completed")
_FABRIC_SUMMARIES = ("n/a", "healthy", "unhealthy", "limited capacity")


class Nvml:
    """A binding whose names begin with `prefix` (`nvml`, `hgml`, `mtml`). Opening it initialises the library.

    Raises:
        Unreadable: the library is not there or its driver does not answer.
    """

    def __init__(self, module: Any, prefix: str = "nvml", init: str = "Init") -> None:
        self._module, self._prefix = module, prefix
        self.error: type[Exception] = getattr(module, f"{prefix.upper()}Error")
        self._absent = frozenset(code for name in _ABSENT if (code := self._code(name)) is not None)
        try:
            self.call(init)
        except (self.error, OSError) as error:
            raise Unreadable(f"{prefix.upper()}: cannot be opened: {error}") from error

    def _code(self, name: str) -> int | None:
        """The number of an error; None when this library does not know it."""
        code: int | None = getattr(self._module, f"{self._prefix.upper()}_ERROR_{name}", None)
        return code

    def constant(self, name: str) -> Any:
        """`NVML_<name>`."""
        return getattr(self._module, f"{self._prefix.upper()}_{name}")

    def symbol(self, name: str) -> Any:
        """What the binding calls so, without the prefix; None when this version does not have it."""
        return getattr(self._module, f"{self._prefix}{name}", getattr(self._module, name, None))

    def call(self, name: str, *arguments: object) -> Any:
        """A call that must work. Raises the binding's own error."""
        return getattr(self._module, f"{self._prefix}{name}")(*arguments)

    def ask(self, found: Findings, name: str, *arguments: object) -> Any:
        """A call that a device may not support: None then. A device that is lost or broken is written into `found`."""
        function = getattr(self._module, f"{self._prefix}{name}", None)
        if function is None:
            return None
        try:
            return function(*arguments)
        except self.error as error:
            code = getattr(error, "value", -1)
            if code in self._absent:
                return None
            if code == self._code("GPU_IS_LOST"):
                found.fault("DEVICE-LOST", Severity.CRITICAL, f"{self._prefix}{name}: {error}")
            elif code == self._code("RESET_REQUIRED"):
                found.fault("RECOVERY-RESET", Severity.CRITICAL, f"{self._prefix}{name}: {error}")
            else:
                found.doubt(f"{self._prefix}{name}: {error}")
            return None

    def handles(self) -> Iterator[tuple[int, Any, str]]:
        """Index, handle and "" of every device; None and the reason where there is no handle."""
        for index in range(self.call("DeviceGetCount")):
            try:
                yield index, self.call("DeviceGetHandleByIndex", index), ""
            except self.error as error:
                yield index, None, f"device {index}: {error}"

    def word(self, value: object) -> str:
        """A text as bindings of different age give it: as bytes or as a string."""
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def listing(library: Nvml, source: str, link: str) -> Listing:
    """All devices of an open library. `link`: what it calls its links (`NvLink`, `IcnLink`)."""
    listed = Listing()
    try:
        listed.versions["driver"] = library.word(library.call("SystemGetDriverVersion"))
        for index, handle, reason in library.handles():
            if handle is None:
                listed.leave_out(source, reason)
                continue
            try:
                address = pci_address(library.word(library.call("DeviceGetPciInfo", handle).busId))
                uuid = library.word(library.call("DeviceGetUUID", handle))
                model = library.word(library.call("DeviceGetName", handle))
            except library.error as error:
                listed.leave_out(source, f"device {index}: {error}")
                continue
            if address is None:
                listed.leave_out(source, f"device {index} has no PCI address that can be read")
                continue
            board = Board(address, uuid, model, findings(source))
            _read_metrics(library, handle, board.findings)
            _read_states(library, handle, board.findings)
            board.links = _links(library, handle, board.findings, link)
            listed.boards.append(board)
    except library.error as error:
        listed.leave_out(source, str(error))
    return listed


def _read_metrics(library: Nvml, handle: object, found: Findings) -> None:
    def ask(name: str, *arguments: object) -> Any:
        return library.ask(found, name, handle, *arguments)

    def scaled(value: int | None, factor: float) -> float | None:
        return None if value is None else value * factor

    found.put("temperature_celsius", ask("DeviceGetTemperature", library.constant("TEMPERATURE_GPU")))
    found.put("memory_temperature_celsius", _field(library, handle, found, "FI_DEV_MEMORY_TEMP"))
    found.put("power_watts", scaled(ask("DeviceGetPowerUsage"), 1e-3))
    found.put("power_limit_watts", scaled(ask("DeviceGetEnforcedPowerLimit"), 1e-3))
    rates = ask("DeviceGetUtilizationRates")
    found.put("utilization_ratio", None if rates is None else rates.gpu / 100)
    version = library.symbol("Memory_v2")
    memory = ask("DeviceGetMemoryInfo", version) if version is not None else ask("DeviceGetMemoryInfo")
    found.put("memory_used_bytes", None if memory is None else memory.used)
    found.put("memory_total_bytes", None if memory is None else memory.total)
    found.put("clock_hertz", scaled(ask("DeviceGetClockInfo", library.constant("CLOCK_SM")), 1e6))
    found.put("pcie_width", ask("DeviceGetCurrPcieLinkWidth"))
    found.put("pcie_width_max", ask("DeviceGetMaxPcieLinkWidth"))
    found.put("pcie_replays_total", ask("DeviceGetPcieReplayCounter"))
    lifetime = library.constant("AGGREGATE_ECC")
    for name, kind in (("ecc_corrected_total", "CORRECTED"), ("ecc_uncorrected_total", "UNCORRECTED")):
        found.put(name, ask("DeviceGetTotalEccErrors", library.constant(f"MEMORY_ERROR_TYPE_{kind}"), lifetime))
    lists = [ask(f"DeviceGet{kind}RunningProcesses") for kind in ("Compute", "Graphics")]
    pids = {entry.pid for entries in lists if entries is not None for entry in entries}
    found.put("processes", None if lists == [None, None] else len(pids))


def _read_states(library: Nvml, handle: object, found: Findings) -> None:
    rows = library.ask(found, "DeviceGetRemappedRows", handle)
    if rows is not None:
        corrected, uncorrected, pending, failure = rows
        found.put("retired_pages", corrected + uncorrected)
        set_state(found, "row_remap_failure", bool(failure))
    else:
        causes = ("MULTIPLE_SINGLE_BIT_ECC_ERRORS", "DOUBLE_BIT_ECC_ERROR")
        pages = [
            library.ask(found, "DeviceGetRetiredPages", handle, library.constant(f"PAGE_RETIREMENT_CAUSE_{cause}"))
            for cause in causes
        ]
        known = [len(page) for page in pages if page is not None]
        found.put("retired_pages", sum(known) if known else None)
        pending = library.ask(found, "DeviceGetRetiredPagesPendingStatus", handle)
    found.put("retired_pages_pending", None if pending is None else float(bool(pending)))
    set_state(found, "pages_pending", bool(pending))
    action = _field(library, handle, found, "FI_DEV_GET_GPU_RECOVERY_ACTION")
    set_recovery(found, _nth(_RECOVERY_ACTIONS, action))
    for name, word in (("FI_DEV_RESET_STATUS", "reset"), ("FI_DEV_DRAIN_AND_RESET_STATUS", "drain and reset")):
        if action is None and _field(library, handle, found, name):
            set_recovery(found, word)
    sram = library.symbol("c_nvmlEccSramErrorStatus_v1_t")
    if sram is not None:
        status = sram()
        if library.ask(found, "DeviceGetSramEccErrorStatus", handle, status) is not None:
            set_state(found, "sram_threshold_exceeded", bool(status.bThresholdExceeded))
    reasons = library.ask(found, "DeviceGetCurrentClocksEventReasons", handle)
    if reasons is None:  # its name in drivers before 535
        reasons = library.ask(found, "DeviceGetCurrentClocksThrottleReasons", handle)
    set_throttling(found, {name: None if reasons is None else bool(reasons & bit) for name, bit in _THROTTLING.items()})
    _read_fabric(library, handle, found)


def _read_fabric(library: Nvml, handle: object, found: Findings) -> None:
    shape = library.symbol("c_nvmlGpuFabricInfo_v3_t") or library.symbol("c_nvmlGpuFabricInfo_v2_t")
    if shape is None:
        return
    info = shape()
    if library.ask(found, "DeviceGetGpuFabricInfoV", handle, info) is None:
        return
    status = "success" if info.status == 0 else f"error {info.status}"
    summary = _nth(_FABRIC_SUMMARIES, getattr(info, "healthSummary", 0))
    set_fabric(found, _nth(_FABRIC_STATES, info.state), status, summary)


def _nth(words: tuple[str, ...], number: int | None) -> str | None:
    """The word of an enumeration; one that is not known stays a number, so that it is doubted."""
    return None if number is None else words[int(number)] if 0 <= number < len(words) else str(number)


def _field(library: Nvml, handle: object, found: Findings, name: str) -> int | None:
    """A value of the field interface; None when the device, the driver or the binding does not have it."""
    try:
        number = library.constant(name)
    except AttributeError:
        return None
    values = library.ask(found, "DeviceGetFieldValues", handle, [number])
    return None if values is None or values[0].nvmlReturn != 0 else int(values[0].value.uiVal)


def _links(library: Nvml, handle: object, found: Findings, link: str) -> tuple[bool, ...]:
    """The state of each link that the device has; the first that it does not have ends them."""
    states = []
    for number in range(library.constant(f"{link.upper()}_MAX_LINKS")):
        state = library.ask(found, f"DeviceGet{link}State", handle, number)
        if state is None:
            break
        states.append(bool(state))
    return tuple(states)
