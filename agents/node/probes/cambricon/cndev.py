"""Cambricon MLUs by CNDev, through the `pycndev` of gpustack-runtime: states, values, and incidents.

CNDev registers for events of Xids too; the binding does not offer that, so incidents are polled.
"""

from __future__ import annotations

from typing import Any

from agents.node.probes.boards import Board, Listing
from agents.node.probes.cambricon.states import ESSENTIAL, driver_word, set_device, set_driver
from agents.node.probes.findings import Findings
from agents.node.probes.machine import Unreadable
from agents.node.probes.reading import Severity, Unread

MODULE = "gpustack_runtime.detector.pycndev"
_MIB = 1 << 20
_MAX_INCIDENTS = 64
_SEVERITY_BY_RESULT = {0: Severity.HINT, 10: Severity.MINOR, 20: Severity.CRITICAL}
"""CNDEV_HEALTH_RESULT_PASS, WARN and FAIL."""


class CnDev:
    """The opened library. Raises Unreadable when it cannot be opened."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._error: type[Exception] = getattr(module, "CNDevError", Exception)
        try:
            module.cndevInit()
        except self._error as error:
            raise Unreadable(f"CNDev cannot be opened: {error}") from error

    def call(self, name: str, *arguments: Any) -> Any:
        """A call of the library. Raises Unreadable."""
        try:
            return getattr(self._module, name)(*arguments)
        except self._error as error:
            raise Unreadable(f"{name}: {error}") from error


def listing(library: CnDev) -> Listing:
    """All cards."""
    found = Listing()
    try:
        count = int(library.call("cndevGetDeviceCount"))
    except Unreadable as error:
        return Listing(complete=False, unread=[Unread("CNDev", str(error))])
    for index in range(count):
        try:
            found.boards.append(_card(library, index))
        except Unreadable as error:
            found.leave_out("CNDev", f"card {index}: {error}")
    return found


def _card(library: CnDev, index: int) -> Board:
    """One card. Raises Unreadable when not even its identity can be read."""
    device = library.call("cndevGetDeviceHandleByIndex", index)
    board = Board(
        str(library.call("cndevGetPCIeBusId", device)).lower(),
        str(library.call("cndevGetUUID", device)),
        str(library.call("cndevGetCardNameByDevId", device)),
        Findings("CNDev", ESSENTIAL),
    )
    for fill in (_read_values, _read_memory):
        try:
            fill(library, device, board.findings)
        except Unreadable as error:
            board.findings.garbled.append(str(error))
    try:
        _read_health(library, device, board.findings)
    except Unreadable as error:
        board.findings.doubt(str(error))
    return board


def _read_values(library: CnDev, device: Any, found: Findings) -> None:
    heat = library.call("cndevGetTemperatureInfo", device)
    found.put("temperature_celsius", _supported(heat.chip))
    found.put("memory_temperature_celsius", _supported(heat.memory))
    power = library.call("cndevGetDevicePowerInfo", device)
    found.put("power_watts", _supported(power.usage))
    found.put("power_limit_watts", _supported(power.cap))
    use = _supported(library.call("cndevGetDeviceUtilizationInfo", device).averageCoreUtilization)
    found.put("utilization_ratio", None if use is None else use / 100)


def _read_memory(library: CnDev, device: Any, found: Findings) -> None:
    memory = library.call("cndevGetMemoryUsageV2", device)
    found.put("memory_used_bytes", memory.physicalMemoryUsed * _MIB)
    found.put("memory_total_bytes", memory.physicalMemoryTotal * _MIB)


def _read_health(library: CnDev, device: Any, found: Findings) -> None:
    """States, and an incident each for what CNDev's own checks found."""
    health = library.call("cndevGetCardHealthStateV2", device)
    set_device(found, "Good" if health.health == 1 else "In problem")
    set_driver(found, driver_word(int(health.driverState)))
    for incident in list(health.incidents)[: min(int(health.incident_count), _MAX_INCIDENTS)]:
        text = str(incident.error.msg).strip()[:300]
        severity = _SEVERITY_BY_RESULT.get(int(incident.health), Severity.UNSTATED)
        found.fault(f"CNDEV-INCIDENT-{int(incident.error.code)}", severity, text)


def _supported(value: int) -> int | None:
    """CNDev's -1 is a value that the card does not have."""
    return None if value < 0 else value
