"""Facts about the machine itself: processors, memory, disk."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import psutil

DISK_NEARLY_FULL_RATIO = 0.90
DISK_FREED_RATIO = 0.85


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What does not change while the agent runs."""

    cpu_count: int
    memory_bytes: int
    disk_bytes: int
    kernel: str
    architecture: str

    def labels(self) -> dict[str, str]:
        """Facts for the hello's labels; the prefix keeps them apart from what an operator gave."""
        return {
            "fact/disk_bytes": str(self.disk_bytes),
            "fact/kernel": self.kernel,
            "fact/architecture": self.architecture,
        }


def read_facts(directory: Path) -> HostFacts:
    """Facts of this machine; the disk is the one that holds `directory`."""
    return HostFacts(
        cpu_count=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        disk_bytes=psutil.disk_usage(os.fspath(directory)).total,
        kernel=platform.release(),
        architecture=platform.machine(),
    )


class DiskWatch:
    """Notices when a disk becomes nearly full, once until there is clearly room again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._full = False

    def read(self) -> float | None:
        """The used share (0 to 1) when the disk has just become nearly full, else None."""
        usage = psutil.disk_usage(os.fspath(self._directory))
        used = usage.used / max(1, usage.used + usage.free)
        if self._full:
            self._full = used > DISK_FREED_RATIO
            return None
        self._full = used > DISK_NEARLY_FULL_RATIO
        return used if self._full else None
