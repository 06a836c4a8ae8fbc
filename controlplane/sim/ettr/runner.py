"""Many runs at once, on several cores, with word of how far they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import TracebackType

from controlplane.sim.ettr.run import Outcome, Plan, simulate

Told = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Nobody listens."""


class Runner:
    """Runs plans in worker processes; a run depends on its plan only, so that the order of ends changes nothing.

    `tell(what, done, total)` hears of every finished run. One worker: everything runs in this process.
    """

    def __init__(self, workers: int = 0, tell: Told = silent) -> None:
        self._workers = workers or os.cpu_count() or 1
        self._tell = tell
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Runner:
        if self._workers > 1:
            self._pool = ProcessPoolExecutor(self._workers, mp_context=get_context("spawn"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, what: str, plans: Sequence[Plan]) -> list[Outcome]:
        """The outcomes, in the order of the plans."""
        outcomes = []
        self._tell(what, 0, len(plans))
        for outcome in self._pool.map(simulate, plans) if self._pool else map(simulate, plans):
            outcomes.append(outcome)
            self._tell(what, len(outcomes), len(plans))
        return outcomes
