"""Errors of the main memory, as the kernel's EDAC drivers count them by memory controller."""

from __future__ import annotations

from agents.node.probes.host.sight import Sight
from agents.node.probes.reading import Severity

CORRECTED_STORM = 1_000
"""Corrected errors since they were last told that make an event: single ones say nothing of a module."""

_FOLDER = "/sys/devices/system/edac/mc"


def read(sight: Sight) -> None:
    """`MEMORY-UE` and `MEMORY-CE-STORM`, once each time that a counter grows."""
    controllers = [name for name in sight.machine.names(_FOLDER) if name.startswith("mc")]
    sight.versions["memory_controllers"] = str(len(controllers))
    for name in controllers:
        uncorrected = sight.number(f"{_FOLDER}/{name}/ue_count")
        if grown := sight.growth(f"{name}/ue", uncorrected):
            text = f"{grown} uncorrected memory errors at controller {name}"
            sight.once("MEMORY-UE", Severity.CRITICAL, uncorrected or 0, text)
        corrected = sight.number(f"{_FOLDER}/{name}/ce_count")
        if grown := sight.growth(f"{name}/ce", corrected, CORRECTED_STORM):
            text = f"{grown} corrected memory errors at controller {name}"
            sight.once("MEMORY-CE-STORM", Severity.MINOR, corrected or 0, text)
