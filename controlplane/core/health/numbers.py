"""Loss and gradient norm of a job: not a number, or far outside of what they were. Pure.

What is judged is what ranks have told, which is every step of a slow job and a sample of a fast one. A value that is not finite
counts at once. A spike is a run of `SPIKE_STEPS` told steps that all lie more than `SPIKE_Z` robust deviations above the
median of the steps before (median and MAD: neither moves by the spike itself); numbers that fall are no spike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from controlplane.core.evidence import Reason
from controlplane.core.vocabulary import Blame

WINDOW = 256
"""Told steps that are kept of a generation."""
SPIKE_STEPS = 5
SPIKE_Z = 12.0
LEAST = 32
"""Steps before a run that are needed to know what is usual."""
LEAST_SHARE = 0.02
"""The deviation is taken for at least this share of the median: a loss that hardly moves makes nothing of small steps."""
MAD_TO_SIGMA = 1.4826
"""Of a normal distribution."""

MOST_SKIPS = 5
"""Stretches of batches that a job leaves out in its life; then it fails."""
MOST_SKIPPED_STEPS = 64
"""Of one stretch; a longer one is done again instead."""

KINDS = (Reason.LOSS_NOT_FINITE, Reason.LOSS_SPIKE, Reason.GRADIENT_SPIKE)


@dataclass(frozen=True, slots=True)
class Finding:
    """Numbers are off: from the step after the last good one that was told, to the last one of the run."""

    kind: Reason
    first_step: int
    last_step: int
    text: str


@dataclass(frozen=True, slots=True)
class Told:
    """Of one step: the loss (the largest that a rank told; infinite: it was no finite number) and the norm of the gradients;
    NaN: not told."""

    loss: float
    gradient_norm: float


@dataclass(frozen=True, slots=True)
class Skip:
    """Batches of the steps `first` to `last` are left out."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a job remembers of its numbers. `first_step`, `generation`: of the newest finding that was acted on (0: none): states
    of that step and later, of that generation and earlier ones, are not restored. `noted`: kinds that were only noted in
    `noted_generation`."""

    skips: tuple[Skip, ...] = ()
    first_step: int = 0
    generation: int = 0
    blame: Blame = Blame.USER
    noted: tuple[str, ...] = field(default=())
    noted_generation: int = 0

    def covers(self, generation: int, step: int) -> bool:
        """Whether a checkpoint was written when numbers were off."""
        return bool(self.first_step) and generation <= self.generation and step >= self.first_step


def judge(told: Mapping[int, Told]) -> Finding | None:
    """What is off in the told steps of a generation; None: nothing."""
    steps = np.array(sorted(told), dtype=np.int64)
    if not len(steps):
        return None
    losses = np.array([told[int(step)].loss for step in steps])
    norms = np.array([told[int(step)].gradient_norm for step in steps])
    bad = np.flatnonzero(np.isinf(losses) | np.isinf(norms))
    if len(bad):
        at = int(bad[0])
        what = "loss" if np.isinf(losses[at]) else "norm of the gradients"
        step = int(steps[at])
        return Finding(
            Reason.LOSS_NOT_FINITE, _after_good(steps, at), step, f"the {what} of step {step} is not a finite number"
        )
    return _spike(steps, losses, Reason.LOSS_SPIKE, "loss") or _spike(
        steps, norms, Reason.GRADIENT_SPIKE, "norm of the gradients"
    )


def _spike(steps: np.ndarray, values: np.ndarray, kind: Reason, what: str) -> Finding | None:
    known = ~np.isnan(values)
    steps, values = steps[known], values[known]
    if len(values) < LEAST + SPIKE_STEPS:
        return None
    before, run = values[:-SPIKE_STEPS], values[-SPIKE_STEPS:]
    middle = float(np.median(before))
    sigma = max(MAD_TO_SIGMA * float(np.median(np.abs(before - middle))), LEAST_SHARE * abs(middle), 1e-9)
    if not (run > middle + SPIKE_Z * sigma).all():
        return None
    at = len(values) - SPIKE_STEPS
    text = (
        f"the {what} is {run.max():.4g} in steps {steps[at]} to {steps[-1]}, usual are {middle:.4g} +- {sigma:.2g} "
        f"(median and robust deviation of {len(before)} steps)"
    )
    return Finding(kind, _after_good(steps, at), int(steps[-1]), text)


def _after_good(steps: np.ndarray, at: int) -> int:
    """The first step that may be off: the one after the last that was told and good."""
    return int(steps[at - 1]) + 1 if at else int(steps[at])
