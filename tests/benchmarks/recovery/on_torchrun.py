"""The workload under torchrun elastic: `torchrun ... -m tests.benchmarks.recovery.on_torchrun LOG CHECKPOINTS STEPS`.

The store gets a prefix per attempt: with plain `env://` new ranks read the addresses of dead ones from the agent's
store, and on gloo the job never comes back.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from tests.benchmarks.recovery.shared_folder import CheckpointFolder
from tests.benchmarks.recovery.workload import StepLog, Training, train


class TorchAttempt:
    """One attempt with torch's own process group. Ray Train's is the same with other checkpoints."""

    def __init__(self, log: Path, checkpoints: CheckpointFolder) -> None:
        self.rank = dist.get_rank()
        self.log = StepLog(log, self.rank)
        self._checkpoints = checkpoints

    def restore(self, training: Training) -> int:
        """From the newest complete folder."""
        folder = self._checkpoints.newest()
        return training.load(folder) if folder else 0

    def loaded(self) -> None:
        """Nobody is told."""

    def updating(self, step: int) -> AbstractContextManager[None]:
        """Nothing is kept in memory."""
        return nullcontext()

    def all_reduce(self, tensor: torch.Tensor) -> None:
        """Sum over the default group."""
        dist.all_reduce(tensor)

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Rank 0 writes."""
        if self.rank == 0:
            self._checkpoints.save(step, write)

    def done(self, step: int, loss: float) -> None:
        """Nobody is told."""


def main(log: str, checkpoints: str, steps: str) -> None:
    """One worker process."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=60))
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
    dist.init_process_group(
        "gloo",
        store=dist.PrefixStore(f"attempt-{attempt}", store),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    train(TorchAttempt(Path(log), CheckpointFolder(Path(checkpoints))), Training(), int(steps))


if __name__ == "__main__":
    main(*sys.argv[1:])
