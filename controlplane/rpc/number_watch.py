"""Loss and gradient norm of each job's newest steps, as told: judged when something is new, and told of until it is heard.

Bounded: a window of steps for each job that runs, whatever its size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from controlplane.core.health.numbers import WINDOW, Finding, Told, judge
from controlplane.engine.soft import StepColumns

REPEAT_STEPS = 16
"""The same kind of finding is told again after so many more told steps: whoever was told may have been busy."""

Tell = Callable[[str, int, Finding], None]


class NumberWatch:
    """Fed under its caller's lock. `tell` is called with job, generation and what is off."""

    def __init__(self) -> None:
        self.tell: Tell = lambda _job, _generation, _finding: None
        self._told: dict[str, dict[int, Told]] = {}
        self._quiet: dict[tuple[str, str], int] = {}

    def take(self, job: str, generation: int, rows: StepColumns) -> None:
        """Steps of the job's current generation, of ranks that it has."""
        norms = rows.gradient_norms if rows.gradient_norms is not None else np.full(len(rows.losses), np.nan)
        worth = ~(np.isnan(rows.losses) & np.isnan(norms))
        if not worth.any():
            return
        window = self._told.setdefault(job, {})
        steps, losses, norms = rows.steps[worth], rows.losses[worth], norms[worth]
        for step in np.unique(steps).tolist():
            here = steps == step
            known = window.get(step)
            loss, norm = _largest(losses[here]), _largest(norms[here])
            if known is not None:
                loss, norm = _largest(np.array([loss, known.loss])), _largest(np.array([norm, known.gradient_norm]))
            window[step] = Told(loss, norm)
        while len(window) > WINDOW:
            del window[min(window)]
        self._judge(job, generation, window)

    def _judge(self, job: str, generation: int, window: dict[int, Told]) -> None:
        finding = judge(window)
        if finding is None:
            return
        newest = max(window)
        key = job, finding.kind.value
        if newest >= self._quiet.get(key, 0):
            self._quiet[key] = newest + REPEAT_STEPS
            self.tell(job, generation, finding)

    def rewind(self, job: str, step: int) -> None:
        """A generation starts again from `step`."""
        window = self._told.get(job, {})
        self._told[job] = {known: told for known, told in window.items() if known <= step}
        self._drop_quiet(job)

    def forget(self, job: str) -> None:
        """The job has ended."""
        self._told.pop(job, None)
        self._drop_quiet(job)

    def _drop_quiet(self, job: str) -> None:
        for key in [key for key in self._quiet if key[0] == job]:
            del self._quiet[key]


def _largest(values: np.ndarray) -> float:
    """The largest of what was told, infinite where any is; NaN: nothing was."""
    known = values[~np.isnan(values)]
    return (
        float(np.abs(known).max())
        if len(known) and np.isinf(known).any()
        else float(known.max())
        if len(known)
        else float("nan")
    )
