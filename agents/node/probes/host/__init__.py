"""The machine itself: processors, memory, disks, network ports, and what the kernel logs of them. It has no accelerators: all
faults are of the node or of a port.

Its published outputs are the InfiniBand ports of an H100 node and kernel lines; the rest is written after docs.kernel.org.
"""

from __future__ import annotations

from agents.node.probes.host import disks, memory_errors, ports, processors
from agents.node.probes.host.log import WORDS
from agents.node.probes.host.sight import Sight
from agents.node.probes.kernel_words import with_log
from agents.node.probes.machine import Machine, Memory
from agents.node.probes.reading import Reading

VENDOR = "host"
PCI_VENDORS: frozenset[str] = frozenset()
PROVEN = "https://github.com/leptonai/gpud/tree/main/components"


def read(machine: Machine, memory: Memory) -> Reading:
    """Everything that is seen of the machine now."""
    sight = Sight(machine, memory)
    for part in (processors, memory_errors, disks, ports):
        part.read(sight)
    reading = Reading(VENDOR, faults=tuple(sight.faults), unread=tuple(sight.unread), versions=sight.versions)
    return with_log(reading, machine, WORDS, "machine checks, PCIe errors and hangs")
