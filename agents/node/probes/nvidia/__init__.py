"""NVIDIA: NVML by its binding (`nvidia-ml-py`) or `nvidia-smi`, and the Xids of the kernel log."""

from __future__ import annotations

from collections.abc import Sequence

from agents.node.probes.inventory import inventory, on_the_bus
from agents.node.probes.listing import Listing, judge
from agents.node.probes.machine import Machine, Memory, PciDevice, Unreadable
from agents.node.probes.nvidia import smi, xid
from agents.node.probes.nvml import Nvml
from agents.node.probes.nvml import listing as nvml_listing
from agents.node.probes.reading import Fault, Reading, Unread

VENDOR = "nvidia"
PCI_VENDORS = frozenset({"10de"})
PROVEN = "https://github.com/influxdata/telegraf/tree/master/plugins/inputs/nvidia_smi/testdata"

_BINDING = "pynvml"


def read(machine: Machine, memory: Memory) -> Reading:
    """Everything that is seen of NVIDIA GPUs now. Positions are those of the PCI bus, which CUDA uses too when it is told
    `CUDA_DEVICE_ORDER=PCI_BUS_ID`."""
    bus = on_the_bus(machine, PCI_VENDORS)
    library = _library(machine, memory)
    if library is None and not bus and not machine.has_tool(smi.TOOL):
        return Reading(VENDOR)
    listed = nvml_listing(library, "NVML", "NvLink") if library is not None else smi.listing(machine, bus)
    judge(listed.gpus, memory)
    order = _order(listed, bus)
    devices = [gpu.findings.device(order[gpu.address], gpu.uuid, gpu.address, gpu.model) for gpu in listed.gpus]
    found = inventory(devices, bus, memory, complete=listed.complete)
    faults = [fault for gpu in listed.gpus for fault in gpu.findings.faults_of(order[gpu.address])]
    unread = [entry for gpu in listed.gpus for entry in gpu.findings.unread(order[gpu.address])]
    places = {device.pci_address: device.index for device in found.devices}
    logged, silent = _logged(machine, places)
    return Reading(
        VENDOR,
        found.devices,
        (*faults, *found.faults, *logged),
        (*listed.unread, *unread, *found.unread, *silent),
        listed.versions,
    )


def _library(machine: Machine, memory: Memory) -> Nvml | None:
    """NVML, opened once; None when the binding or its library is not there, and the tool is asked instead."""
    if "library" not in memory:
        module = machine.module(_BINDING)
        try:
            memory["library"] = None if module is None else Nvml(module)
        except Unreadable:
            memory["library"] = None
    library = memory["library"]
    assert library is None or isinstance(library, Nvml)
    return library


def _order(listed: Listing, bus: Sequence[PciDevice]) -> dict[str, int]:
    """Position by PCI address: of the bus, so that a GPU that is missing moves no other; of the list where no bus is seen."""
    order = {row.address: position for position, row in enumerate(bus)}
    for gpu in listed.gpus:
        order.setdefault(gpu.address, len(order))
    return order


def _logged(machine: Machine, places: dict[str, int]) -> tuple[tuple[Fault, ...], tuple[Unread, ...]]:
    try:
        return xid.faults(machine.kernel_log(), places), ()
    except Unreadable as error:
        return (), (Unread("kernel log", f"Xids are not seen: {error}"),)
