"""Many runs at once, on several cores, with word of how far they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
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
        """The outcomes, in the order of the plans. The longest runs begin first, so that no core waits at the end."""
        self._tell(what, 0, len(plans))
        if self._pool is None:
            return [self._done(what, done, len(plans), simulate(plan)) for done, plan in enumerate(plans, 1)]
        order = sorted(range(len(plans)), key=lambda number: -_failures(plans[number]))
        runs = {number: self._pool.submit(simulate, plans[number]) for number in order}
        for done, run in enumerate(as_completed(runs.values()), 1):
            self._done(what, done, len(plans), run.result())
        return [runs[number].result() for number in range(len(plans))]

    def _done(self, what: str, done: int, total: int, outcome: Outcome) -> Outcome:
        self._tell(what, done, total)
        return outcome


def _failures(plan: Plan) -> float:
    """How many failures a run has about: what it takes."""
    return plan.days * plan.weather.rate * plan.shape.nodes
