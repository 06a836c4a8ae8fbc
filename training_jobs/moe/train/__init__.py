"""The trainer as a workload: `module: training_jobs.moe.train` in a manifest."""

from training_jobs.moe.train.trainer import main, prepare

__all__ = ["main", "prepare"]
