"""Cambricon MLUs: CNDev by gpustack-runtime's binding, with its incidents, or `cnmon info`."""

from __future__ import annotations

from agents.node.probes.boards import assembled, opened
from agents.node.probes.cambricon import cndev, cnmon
from agents.node.probes.inventory import on_the_bus
from agents.node.probes.machine import Machine, Memory
from agents.node.probes.reading import Reading
from agents.node.probes.text import kept_order

VENDOR = "cambricon"
PCI_VENDORS = frozenset({"cabc"})
PROVEN = "constructed"


def read(machine: Machine, memory: Memory) -> Reading:
    """Everything that is seen of Cambricon MLUs now. Positions are the numbers that cnmon gives."""
    bus = on_the_bus(machine, PCI_VENDORS)
    library = opened(machine, memory, cndev.MODULE, cndev.CnDev)
    if library is None and not bus and not machine.has_tool(cnmon.TOOL):
        return Reading(VENDOR)
    listed = cndev.listing(library) if library is not None else cnmon.listing(machine, bus)
    return assembled(VENDOR, listed, bus, memory, kept_order([board.address for board in listed.boards], memory))
