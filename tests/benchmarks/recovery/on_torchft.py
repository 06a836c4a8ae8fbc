"""The workload under torchft: `python -m tests.benchmarks.recovery.on_torchft LOG CHECKPOINTS STEPS`.

A lighthouse and one replica group of one process per rank, each started again as soon as it is dead. Another guarantee than
that of the other systems: survivors go on with a smaller batch, and the rank that comes back takes its state from one of them.
Nothing is saved: as long as one rank lives, no file is read.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.benchmarks.recovery.workload import RANKS, STEP_FLOOR_S, StepLog, Training

LEAST_RANKS = 2
"""Not one less than all: gloo's all-reduce is a ring, and of four ranks the one opposite the lost one is told nothing. It waits
in its collective until the two that were told have built a group without it and close their connections."""
HEARTBEAT_TIMEOUT_MS, JOIN_TIMEOUT_MS, TICK_MS = 500, 500, 20
"""The lighthouse: when a silent rank no longer counts (default: 5,000), how long it waits for the others (60,000), how often it
looks (100)."""
GROUP_TIMEOUT = timedelta(seconds=5)
"""Of a group's building and of its collectives (default: 60 s), should a rank die while a group is being built."""
LOOK_S = 0.02


def worker(rank: int, log: Path, steps: int) -> None:
    """One rank: torchft decides at every step who takes part, and whether the step counts."""
    from torchft import Manager, ProcessGroupGloo

    training = Training()

    def load(found: dict[str, torch.Tensor]) -> None:
        for name, tensor in training.tensors().items():
            tensor.copy_(found[name])

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    manager: Any = Manager(
        pg=ProcessGroupGloo(timeout=GROUP_TIMEOUT),
        load_state_dict=load,
        state_dict=training.tensors,
        min_replica_size=LEAST_RANKS,
        use_async_quorum=False,  # state is there before the step begins, and every rank that is there takes part
        rank=0,
        world_size=1,
        store_addr="127.0.0.1",
        store_port=store.port,
        replica_id=f"rank_{rank}",  # torchft makes it unique for each process
        hostname="127.0.0.1",
        init_sync=False,  # the same seed everywhere
    )
    told = StepLog(log, rank)
    quorum = None
    while manager.current_step() < steps:
        begun = time.monotonic()
        manager.start_quorum()
        if (
            manager._quorum_id != quorum and manager.errored() is None
        ):  # not public; only to tell when the groups are built
            quorum = manager._quorum_id
            told.write("loaded", manager.current_step())
        gradients, _loss = training.gradients(manager.current_step(), rank)
        manager.allreduce(gradients).wait()
        if manager.should_commit():
            training.update(gradients * RANKS)  # torchft has divided by those who took part
            time.sleep(max(0.0, begun + STEP_FLOOR_S - time.monotonic()))
            told.write("step", manager.current_step())


def main(log: str, checkpoints: str, steps: str) -> None:
    """Lighthouse and ranks, until killed."""
    from torchft.coordination import LighthouseServer

    lighthouse = LighthouseServer(
        bind="[::]:0",
        min_replicas=LEAST_RANKS,
        join_timeout_ms=JOIN_TIMEOUT_MS,
        quorum_tick_ms=TICK_MS,
        heartbeat_timeout_ms=HEARTBEAT_TIMEOUT_MS,
    )
    port = lighthouse.address().rsplit(":", 1)[1]
    environment = os.environ | {"TORCHFT_LIGHTHOUSE": f"http://127.0.0.1:{port}"}

    def start(rank: int) -> subprocess.Popen[bytes]:
        command = (sys.executable, "-m", __spec__.name if __spec__ else __name__, "--rank", str(rank), log, steps)
        return subprocess.Popen(command, env=environment)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ranks = {rank: start(rank) for rank in range(RANKS)}
    try:
        while True:
            for rank, process in ranks.items():
                if process.poll() is not None:
                    ranks[rank] = start(rank)
            time.sleep(LOOK_S)
    finally:
        for process in ranks.values():
            process.kill()


if __name__ == "__main__":
    if sys.argv[1] == "--rank":
        worker(int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
    else:
        main(*sys.argv[1:])
