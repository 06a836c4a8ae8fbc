"""Processors that have stopped to run."""

from __future__ import annotations

from agents.node.probes.host.sight import Sight
from agents.node.probes.quantity import whole
from agents.node.probes.reading import Severity, Unread

_FOLDER = "/sys/devices/system/cpu"
_MOST = 65_535


def read(sight: Sight) -> None:
    """`CPU-OFFLINE` when one no longer runs that ran before. What was off from the start somebody may have switched off."""
    text = sight.text(f"{_FOLDER}/online")
    if text is None:
        return
    online = cpus(text)
    if not online:
        sight.unread.append(Unread(f"{_FOLDER}/online", f"{text[:60]!r} is no list of processors"))
        return
    present = cpus(sight.text(f"{_FOLDER}/present") or "")
    sight.versions["cpus"] = f"{len(online)} of {len(present | online)}"
    before: set[int] = sight.memory.setdefault("cpus", set())
    missing = before - online
    before |= online
    if missing:
        first = ", ".join(str(cpu) for cpu in sorted(missing)[:8])
        sight.stands("CPU-OFFLINE", Severity.MAJOR, f"{len(missing)} processors do not run: {first}")


def cpus(text: str) -> set[int]:
    """`0-3,8` as numbers; empty when the text is no such list."""
    found: set[int] = set()
    for piece in filter(None, text.strip().split(",")):
        first, _, last = piece.partition("-")
        begin, end = whole(first, _MOST), whole(last or first, _MOST)
        if begin is None or end is None:
            return set()
        found |= set(range(begin, end + 1))
    return found
