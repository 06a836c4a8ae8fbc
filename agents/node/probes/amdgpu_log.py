"""What the Linux driver amdgpu logs of broken GPUs, and drivers that descend from it under another name."""

from __future__ import annotations

import re

from agents.node.probes.kernel_words import Word
from agents.node.probes.reading import Severity

_FAILED = r"(?:GPU Recovery Failed|GPU reset\(\d+\) failed|reset end with ret = -\d+)"
_WORDS = (
    (r"[Dd]evice lost from bus", "DEVICE-LOST", Severity.CRITICAL),
    (_FAILED, "GPU-RESET-FAILED", Severity.CRITICAL),
    (r"GPU reset\(\d+\) succeeded", "GPU-RESET", Severity.UNSTATED),
    (r"ring \S+ timeout(?!, but soft recovered)", "RING-TIMEOUT", Severity.UNSTATED),
    (r"(?:reaches threshold value|exceeds? threshold)", "RAS-THRESHOLD", Severity.CRITICAL),
    (r"\b[1-9]\d* (?:new )?uncorrectable hardware errors? detected", "RAS-UNCORRECTABLE", Severity.MAJOR),
    (r"(?:poison is consumed|RAS poison consumption)", "RAS-POISON", Severity.UNSTATED),
)
"""Lines of amdgpu_device.c, amdgpu_job.c, amdgpu_ras.c, amdgpu_ras_eeprom.c."""


def words(*drivers: str) -> tuple[Word, ...]:
    """The words in lines that one of these drivers logs of a device."""
    place = rf"(?:{'|'.join(drivers)}) (?P<place>[0-9a-f]{{4}}:[0-9a-f]{{2}}:[0-9a-f]{{2}}\.[0-7]):.*"
    return tuple(Word(re.compile(place + pattern), code, severity) for pattern, code, severity in _WORDS)
