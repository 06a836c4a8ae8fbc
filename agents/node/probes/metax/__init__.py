"""MetaX: mx-smi, and the EID messages of its kernel driver."""

from __future__ import annotations

from agents.node.probes.boards import assembled, places
from agents.node.probes.inventory import on_the_bus
from agents.node.probes.machine import Machine, Memory
from agents.node.probes.metax import eid, smi
from agents.node.probes.reading import Reading
from agents.node.probes.text import kept_order

VENDOR = "metax"
PCI_VENDORS = frozenset({"9999"})
PROVEN = "https://github.com/PaddlePaddle/ERNIE"


def read(machine: Machine, memory: Memory) -> Reading:
    """Everything that is seen of MetaX GPUs now. Positions are the numbers that mx-smi gives."""
    bus = on_the_bus(machine, PCI_VENDORS)
    if not bus and not machine.has_tool(smi.TOOL):
        return Reading(VENDOR)
    listed = smi.listing(machine)
    order = kept_order([board.address for board in listed.boards], memory)
    reading = assembled(VENDOR, listed, bus, memory, order)
    return eid.with_messages(reading, machine, places(reading))
