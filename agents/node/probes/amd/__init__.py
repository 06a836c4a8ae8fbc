"""AMD Instinct: AMD SMI by its binding (`amdsmi`) or `amd-smi`, and what the driver `amdgpu` logs."""

from __future__ import annotations

from agents.node.probes.amd import smi
from agents.node.probes.amd.binding import AmdSmi
from agents.node.probes.amd.binding import listing as binding_listing
from agents.node.probes.amdgpu_log import words
from agents.node.probes.boards import assembled, opened
from agents.node.probes.inventory import on_the_bus
from agents.node.probes.kernel_words import with_log
from agents.node.probes.machine import Machine, Memory
from agents.node.probes.reading import Reading

VENDOR = "amd"
PCI_VENDORS = frozenset({"1002"})
PROVEN = "constructed"

_BINDING = "amdsmi"
_WORDS = words("amdgpu")


def read(machine: Machine, memory: Memory) -> Reading:
    """Everything that is seen of AMD GPUs now; positions are those of the PCI bus, in the order that AMD SMI lists GPUs too."""
    bus = on_the_bus(machine, PCI_VENDORS)
    library = opened(machine, memory, _BINDING, AmdSmi)
    if library is None and not bus and not machine.has_tool(smi.TOOL):
        return Reading(VENDOR)
    listed = binding_listing(library) if library is not None else smi.listing(machine, memory)
    reading = assembled(VENDOR, listed, bus, memory)
    return with_log(reading, machine, _WORDS, "resets and RAS errors")
