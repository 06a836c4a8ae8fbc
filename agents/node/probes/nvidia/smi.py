"""GPUs as `nvidia-smi -q -x` and `nvidia-smi nvlink -s` list them (schemas v11 to v13)."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from xml.etree import ElementTree

from agents.node.probes.boards import Board, Listing
from agents.node.probes.driver_states import findings, set_fabric, set_recovery, set_state, set_throttling
from agents.node.probes.findings import Findings
from agents.node.probes.inventory import pci_address
from agents.node.probes.machine import Machine, PciDevice, Unreadable
from agents.node.probes.reading import Severity, Unread

TOOL = "nvidia-smi"
_QUERY = (TOOL, "-q", "-x")
_LINKS = (TOOL, "nvlink", "-s")
_NO_DEVICES = 6  # what nvidia-smi ends with when a machine has none
_YES = {"yes": True, "no": False}
_SECTIONS = (
    ("temperature",),
    ("pci",),
    ("fb_memory_usage",),
    ("ecc_errors",),
    ("clocks_event_reasons", "clocks_throttle_reasons"),
)
_ACTIVE = {"active": True, "not active": False}
_LOST = ("gpu is lost", "fallen off the bus")
_GPU_LINE = re.compile(r"GPU \d+:.*\(UUID:\s*(GPU-[0-9a-fA-F-]+)\)")
_NO_LINKS = re.compile(
    r"NVML: Unable to retrieve NVLink information(?: as all links are inActive|: Not Supported)", re.IGNORECASE
)
_LINK_LINE = re.compile(r"Link \d+:\s*(?:(<inactive>)|[\d.]+ [GM]B/s)")


def listing(machine: Machine, bus: Sequence[PciDevice]) -> Listing:
    """All GPUs. When the tool refuses to list them because one is gone, each of the bus is asked for by its address."""
    try:
        found = _queried(machine, _QUERY)
        if not found.boards and found.unread:
            for row in bus:
                single = _queried(machine, (*_QUERY, "-i", row.address))
                found.boards += single.boards
                found.versions |= single.versions
    except Unreadable as error:
        return Listing(complete=False, unread=[Unread(" ".join(_QUERY), str(error))])
    if found.boards:
        _read_links(machine, found)
    return found


def _queried(machine: Machine, command: tuple[str, ...]) -> Listing:
    out = machine.run(command)
    if out.code == _NO_DEVICES and "Unable to determine" not in out.stdout + out.stderr:
        return Listing()
    found = parse(out.stdout)
    if out.code != 0:
        said = " ".join((out.stderr + (out.stdout if not found.boards else "")).split())[:300]
        found.complete = False
        found.unread.append(Unread(" ".join(command), f"ended with code {out.code}: {said or 'it printed nothing'}"))
    elif not found.complete:
        found.unread.append(Unread(" ".join(command), "printed a list that ends early or is no XML"))
    elif command == _QUERY and found.announced != str(len(found.boards)):
        found.complete = False
        text = f"lists {len(found.boards)} GPUs and announces {found.announced[:20] or 'no number'}"
        found.unread.append(Unread(" ".join(command), text))
    return found


def parse(text: str) -> Listing:
    """The GPUs in the XML; a text that ends early gives those that are whole, and is not `complete`."""
    found, root = Listing(), ""
    try:
        for event, element in ElementTree.iterparse(io.StringIO(text), ("start", "end")):
            if event == "start":
                root = root or element.tag
            elif element.tag == "gpu":
                _add(found, element)
            elif element.tag in ("driver_version", "cuda_version"):
                found.versions[element.tag.removesuffix("_version")] = (element.text or "").strip()
            elif element.tag == "attached_gpus":
                found.announced = (element.text or "").strip()
    except (ElementTree.ParseError, ValueError, LookupError):  # the last two: an encoding that is not known
        found.complete = False
    if root != "nvidia_smi_log":
        found.complete = False
    return found


def _add(listing: Listing, element: ElementTree.Element) -> None:
    address = pci_address(_text(element, "pci/pci_bus_id") or element.get("id") or "")
    uuid = (_text(element, "uuid") or "").strip()
    if address is None or not uuid.startswith("GPU-"):
        place = element.get("id", "")[:40]
        listing.complete = False
        listing.unread.append(
            Unread(" ".join(_QUERY), f"the GPU {place!r} has no PCI address or UUID that can be read")
        )
        return
    found = findings(" ".join(_QUERY))
    for names in _SECTIONS:
        if all(element.find(name) is None for name in names):
            found.doubt(f"there is no {names[0]}: a form of the list that is not known")
    _read_metrics(found, element)
    _read_states(found, element)
    model = (_text(element, "product_name") or "").strip()
    listing.boards.append(Board(address, uuid, model, found))
    vbios = (_text(element, "vbios_version") or "").strip()
    if vbios:
        listing.versions.setdefault("vbios", vbios)


def _text(element: ElementTree.Element, *paths: str) -> str | None:
    """The text of the first of the paths that is there: schemas differ in names."""
    return next((place.text or "" for path in paths if (place := element.find(path)) is not None), None)


def _read_metrics(found: Findings, gpu: ElementTree.Element) -> None:
    texts = {
        "temperature_celsius": ("temperature/gpu_temp",),
        "memory_temperature_celsius": ("temperature/memory_temp",),
        "power_watts": (
            "gpu_power_readings/average_power_draw", "gpu_power_readings/power_draw", "power_readings/power_draw",
        ),
        "power_limit_watts": ("gpu_power_readings/current_power_limit", "power_readings/enforced_power_limit"),
        "utilization_ratio": ("utilization/gpu_util",),
        "memory_used_bytes": ("fb_memory_usage/used",),
        "memory_total_bytes": ("fb_memory_usage/total",),
        "clock_hertz": ("clocks/sm_clock",),
        "pcie_width": ("pci/pci_gpu_link_info/link_widths/current_link_width",),
        "pcie_width_max": ("pci/pci_gpu_link_info/link_widths/max_link_width",),
        "pcie_replays_total": ("pci/replay_counter",),
    }  # fmt: skip
    for name, paths in texts.items():
        text = _text(gpu, *paths)
        word = (text or "").strip().lower()
        if any(lost in word for lost in _LOST):
            found.fault("DEVICE-LOST", Severity.CRITICAL, f"nvidia-smi says: {word}")
        elif word == "gpu requires reset":
            set_recovery(found, "reset")
        else:
            found.measure(name, text)
    errors = "ecc_errors/aggregate"
    found.measure("ecc_corrected_total", *(_text(gpu, f"{errors}/{unit}_correctable") for unit in ("sram", "dram")))
    kinds = ("sram_uncorrectable", "sram_uncorrectable_parity", "sram_uncorrectable_secded", "dram_uncorrectable")
    found.measure("ecc_uncorrected_total", *(_text(gpu, f"{errors}/{kind}") for kind in kinds))
    rows = [_text(gpu, f"remapped_rows/remapped_row_{kind}") for kind in ("corr", "unc")]
    if rows == [None, None]:
        pages = ("multiple_single_bit_retirement", "double_bit_retirement")
        rows = [_text(gpu, f"retired_pages/{kind}/retired_count") for kind in pages]
    found.measure("retired_pages", *rows)
    processes = gpu.find("processes")
    pids = {(row.text or "").strip() for row in gpu.iterfind("processes/process_info/pid")}
    found.put("processes", None if processes is None or (processes.text or "").strip() == "N/A" else len(pids))


def _read_states(found: Findings, gpu: ElementTree.Element) -> None:
    set_recovery(found, _text(gpu, "gpu_recovery_action"))
    if found.state("reset_required", _text(gpu, "gpu_reset_status/reset_required"), _YES):
        set_recovery(found, "reset")
    if found.state("drain_and_reset", _text(gpu, "gpu_reset_status/drain_and_reset_recommended"), _YES):
        set_recovery(found, "drain and reset")
    pending = [
        found.state(path, _text(gpu, path), _YES)
        for path in ("remapped_rows/remapped_row_pending", "retired_pages/pending_retirement")
    ]
    known = [state for state in pending if state is not None]
    found.put("retired_pages_pending", float(any(known)) if known else None)
    set_state(found, "pages_pending", any(known))
    for name, paths in {
        "row_remap_failure": ("remapped_rows/remapped_row_failure",),
        "sram_threshold_exceeded": ("ecc_errors/aggregate/sram_threshold_exceeded",),
        "unrepairable_memory": ("ecc_errors/unrepairable_memory",),
        "repair_pending": ("ecc_errors/channel_repair_pending", "ecc_errors/tpc_repair_pending"),
    }.items():
        told = [found.state(path, _text(gpu, path), _YES) for path in paths]
        set_state(found, name, any(told))
    set_throttling(found, _throttling(found, gpu))
    fabric = (_text(gpu, f"fabric/{name}") for name in ("state", "status", "health/summary"))
    set_fabric(found, *fabric)


def _throttling(found: Findings, gpu: ElementTree.Element) -> dict[str, bool | None]:
    reasons = {}
    for name, word in {
        "hw_slowdown": "hw_slowdown",
        "hw_thermal_slowdown": "hw_thermal_slowdown",
        "sw_thermal_slowdown": "sw_thermal_slowdown",
        "hw_power_brake": "hw_power_brake_slowdown",
    }.items():
        paths = (
            f"clocks_event_reasons/clocks_event_reason_{word}",
            f"clocks_throttle_reasons/clocks_throttle_reason_{word}",
        )
        reasons[name] = found.state(word, _text(gpu, *paths), _ACTIVE)
    return reasons


def _read_links(machine: Machine, found: Listing) -> None:
    try:
        out = machine.run(_LINKS)
    except Unreadable as error:
        found.unread.append(Unread(" ".join(_LINKS), str(error)))
        for board in found.boards:
            board.findings.doubt("its NVLinks could not be read")
        return
    links, strange = parse_links(out.stdout)
    if out.code != 0 or strange:
        said = strange or " ".join((out.stdout + out.stderr).split())[:300]
        found.unread.append(Unread(" ".join(_LINKS), f"ended with code {out.code}: {said}"))
        return
    for board in found.boards:
        board.links = links.get(board.serial)
        if board.links is None:
            board.findings.garbled.append(f"{' '.join(_LINKS)} does not tell its links")


def parse_links(text: str) -> tuple[dict[str, tuple[bool, ...]], str]:
    """Link states by UUID, and the first line that is none of the lines that are known ("": all are).

    A GPU of which the tool says that all links are inactive, or that it has none, has an empty tuple; one of which nothing
    follows has no entry.
    """
    links: dict[str, tuple[bool, ...]] = {}
    uuid = ""
    for line in text.splitlines():
        word = line.strip()
        if found := _GPU_LINE.fullmatch(word):
            uuid = found[1]
        elif (found := _LINK_LINE.fullmatch(word)) and uuid:
            links[uuid] = (*links.get(uuid, ()), found[1] is None)
        elif _NO_LINKS.fullmatch(word) and uuid:
            links.setdefault(uuid, ())
        elif word:
            return {}, word[:200]
    return links, ""
