"""What the demo does, as values: the jobs, the faults and their steps. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.core.spec import (
    HOUR_MS,
    Backoff,
    Budget,
    CheckpointPolicy,
    JobSpec,
    Parallel,
    RestartPolicy,
    SparePolicy,
    Workload,
)

MODULE = "training_jobs.moe.train"
RANKS = 4
EVERY = 20
STEPS = 160
STEP_FLOOR_MS = 60
"""A step of the two main runs takes at least this long: parked processes are warm before the first fault then."""
DEFAULT_SEED = 1234
REQUIRED_LOSS_SHARE = 0.35
"""The mean loss of the last ten steps must lie this share below that of the first ten."""

REFERENCE = "undisturbed"
DISTURBED = "disturbed"

KILL_RANK = "kill-rank"
DESTROY_NODE = "destroy-node"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault and when it strikes: after `step` is done, strictly between two checkpoints. `rank` names the victim, or
    any rank of the node that is destroyed.
    """

    kind: str
    step: int
    rank: int


@dataclass(frozen=True, slots=True)
class Control:
    """A run that must end with other weights: what it does differently, as workload arguments."""

    name: str
    says: str
    args: tuple[tuple[str, int], ...]


def plan_faults(seed: int, steps: int = STEPS, every: int = EVERY, ranks: int = RANKS) -> tuple[Fault, Fault]:
    """A kill around half-way and the loss of a node around three quarters, each in the middle half of its interval."""
    chance = random.Random(seed)

    def step_near(share: float, *shifts: int) -> int:
        interval = int(steps * share) // every + chance.choice(shifts)
        return interval * every + chance.randint(every // 4, every - every // 4 - 1)

    return (
        Fault(KILL_RANK, step_near(0.55, -1, 0), chance.randrange(ranks)),
        Fault(DESTROY_NODE, step_near(0.8, -1, 0), chance.randrange(ranks)),
    )


def plan_controls(seed: int, steps: int = STEPS) -> tuple[Control, ...]:
    """The negative controls: a proof of equality is worth only as much as its ability to fail."""
    return (
        Control("control-seed", "another seed", (("seed", seed + 1),)),
        Control("control-batch", f"one batch skipped at step {steps // 2}", (("skip_batch", steps // 2),)),
        Control("control-buffer", f"router buffers dropped at step {steps // 2}", (("drop_buffer", steps // 2),)),
    )


def job_spec(name: str, metrics: Path, args: Mapping[str, int], *, spares: bool) -> JobSpec:
    """The demo's training job. `metrics`: the file that gets one line per step. Without spares it runs unpaced."""
    pace = STEP_FLOOR_MS if spares else 0
    values: dict[str, Any] = {"steps": STEPS, "step_floor_ms": pace, "metrics": str(metrics), **args}
    return JobSpec(
        name=name,
        labels=(("purpose", "demo"),),
        workload=Workload(MODULE, args=json.dumps(values, sort_keys=True)),
        ranks=RANKS,
        accelerators_per_rank=1,
        parallel=Parallel(dp=RANKS, ep=2),
        spares=SparePolicy(warm_nodes=1, parked_per_node=1) if spares else SparePolicy(),
        checkpoint=CheckpointPolicy(every_steps=EVERY, keep=3),
        restart_policy=RestartPolicy(
            collect_window_ms=200, user=Budget(3, HOUR_MS, 200), backoff=Backoff(initial_ms=100)
        ),
    )


def is_between_checkpoints(step: int, every: int = EVERY) -> bool:
    """Whether work would be lost by a fault after this step."""
    return step % every != 0
