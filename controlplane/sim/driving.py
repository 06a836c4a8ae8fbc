"""Lets time pass for a controller that ticks only when a tick could decide something (`core.due`)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from controlplane.core.draft import Policy
from controlplane.core.due import due_ns
from controlplane.core.units import ms
from controlplane.engine.turn import Engine
from controlplane.sim.kernel import Kernel

TICK_NS = ms(100)
"""The controller's usual interval between ticks."""


@dataclass(slots=True)
class Driver:
    """`tick` runs a turn with a `Tick` and says whether it wrote anything. `stepping`: see `core.due.due_ns`; whoever takes a
    job out of it calls `stir`."""

    kernel: Kernel
    engine: Engine
    policy: Policy
    tick: Callable[[], bool]
    stepping: Callable[[], Collection[str]] = tuple
    _restless_ns: int | None = None

    def stir(self) -> None:
        """Something happened, or soft state changed: there is a tick one usual interval later."""
        if self._restless_ns is None or self._restless_ns <= self.kernel.now_ns:
            self._restless_ns = self.kernel.now_ns + TICK_NS

    def run(self, end_ns: int, until: Callable[[], bool] = lambda: False) -> None:
        """Let everything happen up to `end_ns`, or until a condition holds."""
        kernel = self.kernel
        while kernel.now_ns < end_ns and not until():
            wake_ns = self._wake_ns()
            moments = (end_ns, wake_ns, kernel.next_ns)
            kernel.run_until(min(moment for moment in moments if moment is not None))
            if wake_ns is not None and kernel.now_ns >= wake_ns:
                self._restless_ns = None
                if self.tick():
                    self.stir()

    def _wake_ns(self) -> int | None:
        if self._restless_ns is not None:
            return self._restless_ns
        state, soft = self.engine.state, self.engine.soft
        return due_ns(state, soft, self.kernel.now_ns, self.policy, stepping=self.stepping())
