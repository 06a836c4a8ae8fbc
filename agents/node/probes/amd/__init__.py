"""AMD Instinct: AMD SMI by its binding (`amdsmi`) or `amd-smi`, and what the driver `amdgpu` logs."""

from __future__ import annotations

import re

from agents.node.probes.amd import smi
from agents.node.probes.amd.binding import AmdSmi
from agents.node.probes.amd.binding import listing as binding_listing
from agents.node.probes.boards import assembled, opened
from agents.node.probes.inventory import on_the_bus
from agents.node.probes.kernel_words import Word, with_log
from agents.node.probes.machine import Machine, Memory
from agents.node.probes.reading import Reading, Severity

VENDOR = "amd"
PCI_VENDORS = frozenset({"1002"})
PROVEN = "constructed"

_BINDING = "amdsmi"
_FAILED = r"(?:GPU Recovery Failed|GPU reset\(\d+\) failed|reset end with ret = -\d+)"
_WORDS = tuple(
    Word(re.compile(r"amdgpu (?P<place>[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]):.*" + pattern), code, severity)
    for pattern, code, severity in (
        (r"[Dd]evice lost from bus", "DEVICE-LOST", Severity.CRITICAL),
        (_FAILED, "GPU-RESET-FAILED", Severity.CRITICAL),
        (r"GPU reset\(\d+\) succeeded", "GPU-RESET", Severity.UNSTATED),
        (r"ring \S+ timeout(?!, but soft recovered)", "RING-TIMEOUT", Severity.UNSTATED),
        (r"(?:reaches threshold value|exceeds? threshold)", "RAS-THRESHOLD", Severity.CRITICAL),
        (r"\b[1-9]\d* (?:new )?uncorrectable hardware errors? detected", "RAS-UNCORRECTABLE", Severity.MAJOR),
        (r"(?:poison is consumed|RAS poison consumption)", "RAS-POISON", Severity.UNSTATED),
    )
)
"""Lines of the Linux driver: amdgpu_device.c, amdgpu_job.c, amdgpu_ras.c, amdgpu_ras_eeprom.c."""


def read(machine: Machine, memory: Memory) -> Reading:
    """Everything that is seen of AMD GPUs now; positions are those of the PCI bus, in the order that AMD SMI lists GPUs too."""
    bus = on_the_bus(machine, PCI_VENDORS)
    library = opened(machine, memory, _BINDING, AmdSmi)
    if library is None and not bus and not machine.has_tool(smi.TOOL):
        return Reading(VENDOR)
    listed = binding_listing(library) if library is not None else smi.listing(machine, memory)
    reading = assembled(VENDOR, listed, bus, memory)
    return with_log(reading, machine, _WORDS, "resets and RAS errors")
