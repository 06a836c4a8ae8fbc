"""The workload under Ray Train v2: `python -m tests.benchmarks.recovery.on_ray_train LOG CHECKPOINTS STEPS`.

A local Ray cluster of its own and one TorchTrainer with a failure policy. Checkpoints go to the plain folder that torchrun
uses too, not through `ray.train.report`: its barrier and copy would only add to Ray Train's time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.recovery.workload import RANKS

HEALTH_CHECK_S = 0.1
SYSTEM_CONFIG = {"health_check_period_ms": 200, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 3}


def loop(config: dict[str, Any]) -> None:
    """One worker: Ray Train has built the process group already."""
    from tests.benchmarks.recovery.on_torchrun import TorchAttempt
    from tests.benchmarks.recovery.shared_folder import CheckpointFolder
    from tests.benchmarks.recovery.workload import Training, train

    checkpoints = CheckpointFolder(Path(config["checkpoints"]))
    train(TorchAttempt(Path(config["log"]), checkpoints), Training(), config["steps"])


def main(log: str, checkpoints: str, steps: str) -> None:
    """Start the cluster and train until killed."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    ray.init(
        num_cpus=RANKS + 1,  # one more for the controller of the run
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        _system_config=SYSTEM_CONFIG,
        object_store_memory=80_000_000,
        log_to_driver=False,
    )
    trainer = TorchTrainer(
        loop,
        train_loop_config={"log": log, "checkpoints": checkpoints, "steps": int(steps)},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=RANKS),
        run_config=RunConfig(
            name="bench",
            storage_path=os.path.dirname(checkpoints),
            failure_config=FailureConfig(max_failures=-1),
        ),
    )
    trainer.fit()


if __name__ == "__main__":
    main(*sys.argv[1:])
