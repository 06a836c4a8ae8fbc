"""NVIDIA: NVML by its binding (`nvidia-ml-py`) or `nvidia-smi`, and the Xids of the kernel log."""

from __future__ import annotations

from dataclasses import replace

from agents.node.probes.boards import assembled, opened, places
from agents.node.probes.inventory import on_the_bus
from agents.node.probes.machine import Machine, Memory, Unreadable
from agents.node.probes.nvidia import smi, xid
from agents.node.probes.nvml import Nvml
from agents.node.probes.nvml import listing as nvml_listing
from agents.node.probes.nvml_events import xids
from agents.node.probes.reading import Reading, Unread

VENDOR = "nvidia"
PCI_VENDORS = frozenset({"10de"})
PROVEN = "https://github.com/influxdata/telegraf/tree/master/plugins/inputs/nvidia_smi/testdata"

_BINDING = "pynvml"


def read(machine: Machine, memory: Memory) -> Reading:
    """Everything that is seen of NVIDIA GPUs now. Positions are those of the PCI bus, which CUDA uses too when it is told
    `CUDA_DEVICE_ORDER=PCI_BUS_ID`."""
    bus = on_the_bus(machine, PCI_VENDORS)
    library = opened(machine, memory, _BINDING, Nvml)
    if library is None and not bus and not machine.has_tool(smi.TOOL):
        return Reading(VENDOR)
    listed = nvml_listing(library, "NVML", "NvLink") if library is not None else smi.listing(machine, bus)
    reading = assembled(VENDOR, listed, bus, memory)
    try:
        logged = xid.faults(machine.kernel_log(), places(reading))
    except Unreadable as error:
        told = None if library is None else xids(library, memory, places(reading), machine.now_ns())
        text = "Xids are not seen" if told is None else "only those Xids are seen that NVML tells"
        blind = Unread("kernel log", f"{text}: {error}", events_only=True)
        return replace(reading, faults=(*reading.faults, *(told or ())), unread=(*reading.unread, blind))
    return replace(reading, faults=(*reading.faults, *logged))
