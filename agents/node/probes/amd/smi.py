"""GPUs as `amd-smi` lists them in JSON: `list` and `metric` each time, `static` once, `bad-pages` where there are any."""

from __future__ import annotations

from typing import Any

from agents.node.probes.amd.states import ESSENTIAL, THERMAL, set_pages, set_violations
from agents.node.probes.boards import Board, Listing
from agents.node.probes.documents import at, document, rows, shown
from agents.node.probes.findings import Findings
from agents.node.probes.inventory import pci_address
from agents.node.probes.machine import Machine, Memory, Unreadable
from agents.node.probes.quantity import GarbledError
from agents.node.probes.reading import Severity, Unread

TOOL = "amd-smi"
_LIST = (TOOL, "list", "--json")
_METRIC = (TOOL, "metric", "--json")
_STATIC = (TOOL, "static", "--json")
_PAGES = (TOOL, "bad-pages", "--json")
_SECTIONS = ("temperature", "pcie", "ecc", "mem_usage")
_ACTIVE = {"active": True, "not active": False}
_NO_PAGES = "no bad pages found."
_XGMI = {"no_errors": False, "error": True, "multiple_errors": True}


def listing(machine: Machine, memory: Memory) -> Listing:
    """All GPUs; a part of the tool that says nothing is an Unread, and a doubt about those that it speaks for."""
    found = Listing()
    listed = _table(machine, _LIST, found.unread)
    if listed is None:
        return Listing(complete=False, unread=found.unread)
    metrics = _table(machine, _METRIC, found.unread)
    # A driver that leaves one question without an answer is not asked the next: each may hang as long.
    answers = metrics is not None
    pages = _table(machine, _PAGES, found.unread) if answers else None
    static = _static(machine, memory, found.unread) if answers else memory.get("static", {})
    for number, row in listed.items():
        address, uuid = pci_address(str(row.get("bdf"))), row.get("uuid")
        if address is None or not isinstance(uuid, str):
            found.leave_out(" ".join(_LIST), f"GPU {number} has no address and UUID that can be read")
            continue
        if any(board.address == address for board in found.boards):
            continue  # a further partition of the same GPU
        fixed = static.get(number, {})
        model = at(fixed, "asic", "market_name")
        board = Board(
            address, uuid, model if isinstance(model, str) else "AMD GPU", Findings(" ".join(_METRIC), ESSENTIAL)
        )
        _read(board.findings, (metrics or {}).get(number), fixed)
        _read_pages(board.findings, None if pages is None else pages.get(number, {}))
        found.boards.append(board)
    driver = next((at(row, "driver", "version") for row in static.values()), None)
    if isinstance(driver, str):
        found.versions["driver"] = driver
    return found


def _table(machine: Machine, command: tuple[str, ...], unread: list[Unread]) -> dict[int, dict[str, Any]] | None:
    """Rows by GPU number, of an array (ROCm before 7) or of one under `gpu_data`; None, and why, when they cannot be read."""
    name = " ".join(command)
    try:
        out = machine.run(command)
        value = document(out.stdout)
        found = rows(value, "gpu_data") if isinstance(value, dict) else rows(value)
    except Unreadable as error:
        unread.append(Unread(name, str(error)))
        return None
    except GarbledError as error:
        unread.append(Unread(name, f"the output {error}"))
        return None
    table = {row["gpu"]: row for row in found if isinstance(row.get("gpu"), int)}
    if out.code != 0 or len(table) != len(found):
        unread.append(Unread(name, f"ended with code {out.code}, {len(table)} of {len(found)} rows name their GPU"))
        return None
    return table


def _static(machine: Machine, memory: Memory, unread: list[Unread]) -> dict[int, dict[str, Any]]:
    """What does not change while the driver is loaded, asked for once."""
    if "static" not in memory:
        table = _table(machine, _STATIC, unread)
        if table is None:
            return {}
        memory["static"] = table
    static: dict[int, dict[str, Any]] = memory["static"]
    return static


def _read(found: Findings, row: dict[str, Any] | None, fixed: dict[str, Any]) -> None:
    if row is None:
        found.doubt("its row is missing")
        return
    for name in _SECTIONS:
        if not isinstance(row.get(name), dict):
            found.doubt(f"there is no {name}: a form of the list that is not known")
    heat = [shown(at(row, "temperature", sensor)) for sensor in ("hotspot", "edge")]
    found.measure("temperature_celsius", next((text for text in heat if text not in (None, "N/A")), "N/A"))
    power = [shown(at(row, "power", name)) for name in ("socket_power", "current_socket_power", "average_socket_power")]
    found.measure("power_watts", next((text for text in power if text not in (None, "N/A")), "N/A"))
    texts = {
        "memory_temperature_celsius": at(row, "temperature", "mem"),
        "utilization_ratio": at(row, "usage", "gfx_activity"),
        "memory_used_bytes": at(row, "mem_usage", "used_vram"),
        "memory_total_bytes": at(row, "mem_usage", "total_vram"),
        "clock_hertz": at(row, "clock", "gfx_0", "clk"),
        "pcie_width": at(row, "pcie", "width"),
        "pcie_width_max": at(fixed, "bus", "max_pcie_width"),
        "pcie_replays_total": at(row, "pcie", "replay_count"),
        "ecc_corrected_total": at(row, "ecc", "total_correctable_count"),
        "ecc_uncorrected_total": at(row, "ecc", "total_uncorrectable_count"),
    }
    for name, value in texts.items():
        found.measure(name, shown(value))
    active = {name: _violation(found, at(row, "throttle", f"{name}_violation_status"), name) for name in THERMAL}
    summary = str(at(row, "power", "throttle_status") or "").upper()
    set_violations(found, active, throttled={"THROTTLED": True, "UNTHROTTLED": False}.get(summary))
    errors = str(row.get("xgmi_err", "N/A")).lower().removeprefix("amdsmi_xgmi_status_")
    if found.state("xgmi_err", errors, _XGMI):
        found.fault("XGMI-ERROR", Severity.MINOR, f"the links between GPUs report: {errors}")


def _violation(found: Findings, value: Any, name: str) -> bool | None:
    return found.state(name, None if value is None else str(value), _ACTIVE)


def _read_pages(found: Findings, row: dict[str, Any] | None) -> None:
    if row is None:
        found.doubt("its bad pages could not be read")
        return
    numbers: dict[str, int] = {}
    for name in ("retired", "pending", "un_res"):
        value = row.get(name, "N/A")
        if isinstance(value, dict | list):
            numbers[name] = 1 if isinstance(value, dict) else len(value)
        elif str(value).strip().lower() == _NO_PAGES:
            numbers[name] = 0
        elif str(value).strip().lower() not in found.unsupported:
            found.doubt(f"bad pages {name}: {str(value)[:60]!r} is nothing that is known")
    set_pages(found, {"retired": 0, "pending": 0, "un_res": 0} | numbers if numbers else None)
