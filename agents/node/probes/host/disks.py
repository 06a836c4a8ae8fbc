"""Disks: file systems that went read-only, NVMe controllers that died, and what disks say of themselves (SMART)."""

from __future__ import annotations

import re

from agents.node.probes.documents import at, document
from agents.node.probes.host.sight import Sight
from agents.node.probes.machine import Unreadable
from agents.node.probes.quantity import GarbledError
from agents.node.probes.reading import Fault, Severity, Unread

SMART_EVERY_NS = 600 * 1_000_000_000
"""Disks are asked for their health so often: the question itself costs them work."""

_READ_ONLY_KINDS = frozenset({"iso9660", "squashfs", "erofs", "cramfs", "udf", "romfs"})
_DISK = re.compile(r"nvme\d+n\d+|sd[a-z]{1,3}")
_NVME_WORKING = frozenset({"live", "new", "connecting", "resetting"})


def read(sight: Sight) -> None:
    """`DISK-READ-ONLY`, `DISK-DEAD`, `DISK-SMART`, `DISK-WORN`."""
    _read_mounts(sight)
    for name in sight.machine.names("/sys/class/nvme"):
        state = sight.text(f"/sys/class/nvme/{name}/state")
        if state is not None and state not in _NVME_WORKING:
            sight.stands("DISK-DEAD", Severity.CRITICAL, f"the controller {name} is {state[:40]}")
    _read_smart(sight)


def _read_mounts(sight: Sight) -> None:
    """A file system is read-only by fault when it was writable before, or when the kernel says so (`emergency_ro`, from 6.12)."""
    text = sight.text("/proc/mounts")
    if text is None:
        return
    writable: set[str] = sight.memory.setdefault("writable", set())
    for line in text.splitlines():
        device, place, kind, options = ([*line.split(), "", "", "", ""])[:4]
        if not device.startswith("/dev/") or kind in _READ_ONLY_KINDS:
            continue
        words = set(options.split(","))
        if "rw" in words:
            writable.add(place)
        elif "ro" in words and (place in writable or "emergency_ro" in words):
            sight.stands("DISK-READ-ONLY", Severity.CRITICAL, f"{device} at {place} ({kind}) became read-only")


def _read_smart(sight: Sight) -> None:
    """What smartctl says, kept until it is asked again."""
    if not sight.machine.has_tool("smartctl"):
        return
    now = sight.machine.now_ns()
    if now - sight.memory.get("smart_at_ns", 0) >= SMART_EVERY_NS:
        sight.memory["smart_at_ns"] = now
        found = Sight(sight.machine, sight.memory)
        for name in sight.machine.names("/sys/block"):
            if _DISK.fullmatch(name):
                _ask(found, name)
        sight.memory["smart"] = (found.faults, found.unread)
    faults, unread = sight.memory["smart"]
    sight.faults += faults
    sight.unread += unread


def _ask(sight: Sight, name: str) -> None:
    command = ("smartctl", "--json", "-H", "-A", f"/dev/{name}")
    try:
        value = document(
            sight.machine.run(command).stdout
        )  # its exit status is a set of bits, and told in the document too
    except (Unreadable, GarbledError) as error:
        sight.unread.append(Unread(" ".join(command), str(error), events_only=True))
        return
    passed = at(value, "smart_status", "passed")
    warning = at(value, "nvme_smart_health_information_log", "critical_warning")
    used = at(value, "nvme_smart_health_information_log", "percentage_used")
    if not isinstance(passed, bool):
        sight.unread.append(
            Unread(" ".join(command), "tells no health: it needs CAP_SYS_RAWIO, or the disk has none", events_only=True)
        )
        return
    if not passed or (isinstance(warning, int) and warning):
        sight.faults.append(Fault("node", "DISK-SMART", Severity.MAJOR, message=f"{name} calls itself failing"))
    if isinstance(used, int) and used >= 100:
        sight.faults.append(Fault("node", "DISK-WORN", Severity.MINOR, message=f"{name} has used {used} % of its life"))
