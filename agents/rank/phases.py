"""Where a rank's time goes: own compute, waiting for others, data, garbage collection, checkpoints.

Every nanosecond of the thread that trains belongs to exactly one phase: the innermost that is open, compute when none is.
Sums only grow within a generation, so that a report that is never sent loses nothing: the next one holds it.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from phalanx.v1 import agent_pb2

COMPUTE, WAITING, DATA, COLLECTION, CHECKPOINT = range(5)
NAMED = {"waiting": WAITING, "data": DATA, "checkpoint": CHECKPOINT}
"""Phases that a workload may name."""


class Phase:
    """A phase of a clock, as a context manager. May be used again, and inside of itself."""

    __slots__ = ("_clock", "_kind")

    def __init__(self, clock: PhaseClock, kind: int) -> None:
        self._clock = clock
        self._kind = kind

    def __enter__(self) -> None:
        self._clock.enter(self._kind)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clock.leave()


class PhaseClock:
    """Time of one thread by phase. Calls from other threads change nothing, except `issued` and `completed`."""

    def __init__(
        self, now_ns: Callable[[], int] = time.perf_counter_ns, cpu_ns: Callable[[], int] = time.thread_time_ns
    ) -> None:
        self._now_ns = now_ns
        self._cpu_ns = cpu_ns
        self._phases = {name: Phase(self, kind) for name, kind in NAMED.items()}
        self._waiting = Phase(self, WAITING)
        self._owner = threading.get_ident()
        self._watched = False
        self.restart()

    def restart(self) -> None:
        """Begin anew in the calling thread, which is the one that counts from now on: a new generation."""
        self._owner = threading.get_ident()
        self._spent = [0] * 5
        self._open: list[int] = []
        self._phase = COMPUTE
        self._since = self._now_ns()
        self._steps = 0
        self._issued: tuple[int, int] | None = None
        self._completed = 0

    def phase(self, name: str) -> Phase:
        """The phase of a name.

        Raises:
            ValueError: there is none of that name.
        """
        found = self._phases.get(name)
        if found is None:
            raise ValueError(f"there is no phase {name!r}: use one of {', '.join(NAMED)}; what is in none is compute")
        return found

    @property
    def waiting(self) -> Phase:
        """Waiting for others."""
        return self._waiting

    def enter(self, kind: int) -> None:
        """A phase begins; the one around it stands still."""
        if threading.get_ident() != self._owner:
            return
        if self._issued is not None:
            self._settle()
        now = self._now_ns()
        self._spent[self._phase] += now - self._since
        self._since = now
        self._open.append(self._phase)
        self._phase = kind

    def leave(self) -> None:
        """The innermost phase ends. Without one (it began before a restart) nothing happens."""
        if threading.get_ident() != self._owner or not self._open:
            return
        now = self._now_ns()
        self._spent[self._phase] += now - self._since
        self._since = now
        self._phase = self._open.pop()

    def issued(self) -> None:
        """The thread has begun a collective whose end it awaits where nothing can be measured (DDP, inside of torch)."""
        if threading.get_ident() == self._owner:
            self._issued = (self._now_ns(), self._cpu_ns())

    def completed(self) -> None:
        """A collective that was begun in that way is done. Any thread."""
        self._completed = self._now_ns()

    def _settle(self) -> None:
        """From the newest such collective's begin until its end, the thread waited as far as it used no processor."""
        assert self._issued is not None
        (at, cpu), self._issued = self._issued, None
        now = self._now_ns()
        idle = now - at - (self._cpu_ns() - cpu)
        waited = max(0, min(idle, self._completed - at, now - self._since))
        self._spent[WAITING] += waited
        self._since += waited

    def step(self) -> agent_pb2.StepTimes:
        """A step is done: the sums since the generation began."""
        if threading.get_ident() == self._owner:
            if self._issued is not None:
                self._settle()
            now = self._now_ns()
            self._spent[self._phase] += now - self._since
            self._since = now
            self._steps += 1
        spent = self._spent
        return agent_pb2.StepTimes(
            steps=self._steps,
            total_us=sum(spent) // 1_000,
            waiting_us=spent[WAITING] // 1_000,
            data_us=spent[DATA] // 1_000,
            collection_us=spent[COLLECTION] // 1_000,
            checkpoint_us=spent[CHECKPOINT] // 1_000,
        )

    def watch_collector(self) -> None:
        """Count garbage collection from now on."""
        if not self._watched:
            self._watched = True
            gc.callbacks.append(self._collecting)

    def unwatch_collector(self) -> None:
        """Count it no more."""
        if self._watched:
            self._watched = False
            gc.callbacks.remove(self._collecting)

    def _collecting(self, moment: str, _info: dict[str, Any]) -> None:
        if moment == "start":
            self.enter(COLLECTION)
        else:
            self.leave()
