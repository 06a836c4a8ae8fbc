"""How much this process waits for a processor, as Linux counts it: /proc/self/task/*/schedstat."""

from __future__ import annotations

import math
import os
from collections import deque
from contextlib import suppress
from pathlib import Path

from controlplane.core.units import NS_PER_S

MOST_THREADS = 256
"""Threads that are looked at; more would be a defect, and each costs some microseconds."""

WINDOW_NS = NS_PER_S
"""Waits of the last second count."""

LINE_BYTES = 128
"""Three numbers fit."""

MOST_LOOKS = 64
"""Looks that are kept, however often one is taken."""


class ProcessorWait:
    """Waits of each thread over a sliding second. Says nothing (NaN) where the kernel does not count them."""

    def __init__(self, tasks: Path = Path("/proc/self/task")) -> None:
        self._tasks = tasks
        self._looks: deque[tuple[int, dict[str, int]]] = deque(maxlen=MOST_LOOKS)

    def share(self, now_ns: int) -> float:
        """Share of the last second in which the thread that waited longest could have run and did not; NaN before the second look,
        and where nothing can be read. `now_ns`: of a monotonic clock; looks should be tens of milliseconds apart or more."""
        waited = self._read()
        if not waited:
            return math.nan
        while len(self._looks) > 1 and self._looks[1][0] <= now_ns - WINDOW_NS:
            self._looks.popleft()
        before_ns, before = self._looks[0] if self._looks else (now_ns, waited)
        self._looks.append((now_ns, waited))
        took_ns = max(WINDOW_NS, now_ns - before_ns)
        if now_ns <= before_ns:
            return math.nan
        longest_ns = max((all_ns - before.get(thread, all_ns) for thread, all_ns in waited.items()), default=0)
        return min(1.0, max(0, longest_ns) / took_ns)

    def _read(self) -> dict[str, int]:
        """How long each thread has waited since it began, ns."""
        found: dict[str, int] = {}
        try:
            threads = os.listdir(self._tasks)
        except OSError:
            return found
        for thread in threads[:MOST_THREADS]:
            with suppress(OSError, IndexError, ValueError):  # a thread that has ended, or a kernel that does not count
                found[thread] = int(_line(f"{self._tasks}/{thread}/schedstat").split()[1])
        return found


def _line(path: str) -> bytes:
    """A short file by system calls alone: twice as cheap as an object for it."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, LINE_BYTES)
    finally:
        os.close(file)
