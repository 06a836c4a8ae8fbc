"""Virtual time: one clock, one heap of what is to happen, and named random streams from one seed.

Nothing in the simulator reads another clock or another source of chance. What happens at the same instant happens in the
order in which it was planned, so that two runs of a seed are the same run.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from random import Random

from controlplane.core.units import NS_PER_S, seconds

START_NS = 1_800_000_000 * NS_PER_S
"""Unix time at which every simulated site begins (January 2027): far from 0, so that an unset time never looks like one."""

MAX_PLANNED = 2_000_000
"""Happenings that may wait at once; more means that something plans itself again and again."""

Action = Callable[[], object]


class Runaway(Exception):
    """The simulated world does not come to rest: a defect of the simulator."""


class Kernel:
    """The clock of one run. Times are Unix nanoseconds, delays are seconds."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.now_ns = START_NS
        self._planned: list[tuple[int, int, Action]] = []
        self._sequence = 0
        self._streams: dict[str, Random] = {}

    @property
    def elapsed_s(self) -> float:
        """Virtual seconds since the site began."""
        return (self.now_ns - START_NS) / NS_PER_S

    def stream(self, name: str) -> Random:
        """The random numbers of one purpose. Another stream more or less changes nothing in this one."""
        found = self._streams.get(name)
        if found is None:
            found = self._streams[name] = Random(stream_seed(self.seed, name))
        return found

    def after(self, delay_s: float, action: Action) -> None:
        """Plan `action` for `delay_s` from now on."""
        self.at(self.now_ns + seconds(delay_s), action)

    def at(self, at_ns: int, action: Action) -> None:
        """Plan `action` for a time; one that has passed means now, after everything else that is planned for now.

        Raises:
            Runaway: too much is planned already.
        """
        if len(self._planned) >= MAX_PLANNED:
            raise Runaway(
                f"{MAX_PLANNED} happenings wait at {self.elapsed_s:.3f} s: something plans itself without end"
            )
        self._sequence += 1
        heapq.heappush(self._planned, (max(at_ns, self.now_ns), self._sequence, action))

    @property
    def next_ns(self) -> int | None:
        """When the next planned thing happens; None: nothing is planned."""
        return self._planned[0][0] if self._planned else None

    def run_until(self, end_ns: int, enough: Callable[[], bool] | None = None) -> None:
        """Let everything happen that is planned up to `end_ns`, what it plans included; then it is `end_ns`.

        Args:
            end_ns: Unix ns.
            enough: asked after each happening; True ends the run at that moment.
        """
        planned = self._planned
        while planned and planned[0][0] <= end_ns:
            at_ns, _, action = heapq.heappop(planned)
            self.now_ns = max(self.now_ns, at_ns)
            action()
            if enough is not None and enough():
                return
        self.now_ns = max(self.now_ns, end_ns)


def stream_seed(seed: int, name: str) -> int:
    """Seed of a named stream: the first 16 bytes of SHA-256 over seed and name, the same in every process."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "big")
