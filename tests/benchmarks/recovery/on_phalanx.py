"""The workload under Phalanx: `workload: {module: tests.benchmarks.recovery.on_phalanx}`."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from agents.rank import (
    BadFile,
    Generation,
    Groups,
    Part,
    RankContext,
    StateKeeper,
    describe_files,
    verify_files,
)
from tests.benchmarks.recovery.workload import StepLog, Training, train

PART = "model"


def prepare(context: RankContext) -> None:
    """Called while the process is parked: first-use costs are paid here."""
    training = Training()
    gradients, _loss = training.gradients(0, 0)
    training.update(gradients)


def main(context: RankContext) -> None:
    """Train through all generations of this process; the state stays in memory from one to the next."""
    training: Training | None = None
    keeper: StateKeeper | None = None
    for generation in context.generations():
        with generation:
            if training is None or keeper is None:
                training = Training(generation.world_size)
                keeper = StateKeeper(context, [Part(PART, training.tensors())])
            attempt = PhalanxAttempt(context, generation, generation.join(), keeper)
            train(attempt, training, int(context.args["steps"]))
            context.finish({})
            return


class PhalanxAttempt:
    """One generation as the workload sees it."""

    def __init__(self, context: RankContext, generation: Generation, groups: Groups, keeper: StateKeeper) -> None:
        self.rank = generation.rank
        self.log = StepLog(Path(context.args["log"]), generation.rank)
        self._context = context
        self._generation = generation
        self._groups = groups
        self._keeper = keeper

    def restore(self, training: Training) -> int:
        """From memory where a rank holds the step, else from the manifest's folder after its digests were checked."""
        held = self._keeper.restore(self._generation, self._groups)
        if held.missing:
            self._read(training)
        self._keeper.hold(held.step)
        return held.step

    def _read(self, training: Training) -> None:
        point = self._generation.restore
        if point.from_scratch:
            training.initialise()
            return
        try:
            verify_files(point, [PART])
        except BadFile as bad:
            self._context.restore_failed(bad.file, bad.reason)
        training.load(point.folder / PART)

    def loaded(self) -> None:
        """Ends the phase `restore`."""
        self._generation.restored()

    def updating(self, step: int) -> AbstractContextManager[None]:
        """The keeper takes a version of the state when the step is done."""
        return self._keeper.updating(step)

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Sum over the world group."""
        self._groups.world.all_reduce(tensor)

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Rank 0 writes; every rank reports, so that the controller can commit."""
        reached = time.monotonic()
        folder = self._generation.step_folder(step)
        files = []
        if self.rank == 0:
            (folder / PART).mkdir(parents=True)
            write(folder / PART)
            files = describe_files(folder, PART)
        self._generation.shard_written(step, files, save_stall_s=time.monotonic() - reached, step_reached_at=reached)

    def done(self, step: int, loss: float) -> None:
        """Tell the controller."""
        self._context.progress(step, loss)
