"""The fixed workload of the comparison, the same for all systems. Imports torch and the standard library, nothing else.

A small data-parallel network on random but seeded data; gradients are summed by hand over all ranks, so that every
system runs the same arithmetic. Each rank tells the step log when its state is loaded and when a step is done.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import torch

RANKS = 4
STEP_FLOOR_S = 0.02
"""A step lasts at least this long, so that redone steps cost every system the same; 30 ms is the most that is allowed."""
CHECKPOINT_EVERY = 10
WIDTH = 256
BATCH = 16
STATE_FILE = "state.pt"


class Attempt(Protocol):
    """What a system gives a rank for one attempt: its place, its collective, its checkpoints."""

    rank: int
    log: StepLog

    def restore(self, training: Training) -> int:
        """Bring the state to where this attempt starts; returns the step. The groups are built when it returns."""

    def loaded(self) -> None:
        """The state is in memory."""

    def updating(self, step: int) -> AbstractContextManager[None]:
        """Entered around what takes the state to that of `step`."""

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Sum over all ranks, in place."""

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Have `write(folder)` called on one rank and make the folder the newest checkpoint."""

    def done(self, step: int, loss: float) -> None:
        """A step is finished."""


class StepLog:
    """Lines `monotonic_ns rank pid event step`, appended by all ranks to one file; a line is one write, so none is torn."""

    def __init__(self, path: Path, rank: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._rank = rank

    def write(self, event: str, step: int) -> None:
        """`loaded`: groups are built and the state of `step` is in memory; `step`: `step` is finished."""
        os.write(self._file, f"{time.monotonic_ns()} {self._rank} {os.getpid()} {event} {step}\n".encode())


class Training:
    """Model and momentum. The optimizer is written out: the first call of one of torch's imports a compiler, about a second
    that a warm process has behind it and a cold one has not, and the comparison is not about that."""

    def __init__(self, ranks: int = RANKS) -> None:
        torch.set_num_threads(1)
        self.ranks = ranks
        layers = [torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh(), torch.nn.Linear(WIDTH, WIDTH)]
        self.model = torch.nn.Sequential(*layers)
        self.momentum = torch.zeros(sum(parameter.numel() for parameter in self.model.parameters()))
        self.initialise()

    def initialise(self) -> None:
        """The state of step 0, the same on every rank, in the tensors that there are."""
        torch.manual_seed(7)
        for layer in self.model:
            if isinstance(layer, torch.nn.Linear):
                layer.reset_parameters()
        self.momentum.zero_()

    def tensors(self) -> dict[str, torch.Tensor]:
        """All state, as the tensors that are changed in place."""
        return {name: value.detach() for name, value in self.model.named_parameters()} | {"momentum": self.momentum}

    def gradients(self, step: int, rank: int) -> tuple[torch.Tensor, float]:
        """Forward and backward on this rank's batch of `step`: all gradients in one row, and the loss."""
        generator = torch.Generator().manual_seed(step * self.ranks + rank)
        batch = torch.randn(BATCH, WIDTH, generator=generator)
        self.model.zero_grad()
        loss = (self.model(batch) - batch.roll(1, dims=1)).square().mean()
        loss.backward()
        row = torch.cat([p.grad.reshape(-1) for p in self.model.parameters() if p.grad is not None])
        return row, float(loss.detach())

    @torch.no_grad()
    def update(self, gradients: torch.Tensor) -> None:
        """Gradient descent with momentum."""
        self.momentum.mul_(0.9).add_(gradients, alpha=1 / self.ranks)
        start = 0
        for parameter in self.model.parameters():
            count = parameter.numel()
            parameter.sub_(self.momentum[start : start + count].view_as(parameter), alpha=1e-2)
            start += count

    def load(self, folder: Path) -> int:
        """The state of a checkpoint; returns its step."""
        state = torch.load(folder / STATE_FILE)
        self.model.load_state_dict(state["model"])
        self.momentum.copy_(state["momentum"])
        return int(state["step"])

    def store(self, folder: Path, step: int) -> None:
        """Write the state of `step`, flushed to the disk."""
        with open(folder / STATE_FILE, "wb") as file:
            torch.save({"step": step, "model": self.model.state_dict(), "momentum": self.momentum}, file)
            file.flush()
            os.fsync(file.fileno())


def train(attempt: Attempt, training: Training, steps: int) -> None:
    """One attempt of one rank: restore, then step until `steps` are done."""
    step = attempt.restore(training)
    attempt.log.write("loaded", step)
    attempt.loaded()
    while step < steps:
        begun = time.monotonic()
        gradients, loss = training.gradients(step, attempt.rank)
        attempt.all_reduce(gradients)
        with attempt.updating(step + 1):
            training.update(gradients)
        time.sleep(max(0.0, begun + STEP_FLOOR_S - time.monotonic()))
        step += 1
        attempt.log.write("step", step)
        attempt.done(step, loss)
        if step % CHECKPOINT_EVERY == 0:
            attempt.save(step, lambda folder, step=step: training.store(folder, step))
