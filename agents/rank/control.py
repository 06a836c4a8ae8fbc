"""The flag that ends every wait: what the node agent told this process, shared between its threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from agents.rank.assignment import Assignment
from agents.rank.errors import EXIT_TERMINATED
from agents.rank.saving import SaveOrder


class Control:
    """Newest assignment and stop request. Reading the flags takes no lock, so a step may do it at every wait."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._newest: Assignment | None = None
        self._interrupt: Callable[[], None] | None = None
        self.newest_generation = 0
        self.stopping = False
        self.save_order = SaveOrder()

    def offer(self, assignment: Assignment) -> bool:
        """Take an assignment from the agent. False when it is not newer than what is known (nothing changes)."""
        with self._changed:
            if assignment.generation <= self.newest_generation:
                return False
            self._newest = assignment
            self.newest_generation = assignment.generation
            interrupt = self._interrupt
            self._changed.notify_all()
        if interrupt is not None:
            interrupt()
        return True

    def on_change(self, interrupt: Callable[[], None] | None) -> None:
        """Call `interrupt` (from the link's thread, must not block) at the next newer assignment."""
        with self._changed:
            self._interrupt = interrupt

    def wait_newer(self, than: int, timeout_s: float | None) -> Assignment | None:
        """Block until there is a generation newer than `than`; None when the time is over.

        Raises SystemExit(143) once the process was asked to stop.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while True:
                self.check_stop()
                if self._newest is not None and self._newest.generation > than:
                    return self._newest
                left = 1.0 if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(min(left, 1.0))

    def check_stop(self) -> None:
        """Raise SystemExit(143) once the process was asked to stop."""
        if self.stopping:
            raise SystemExit(EXIT_TERMINATED)
