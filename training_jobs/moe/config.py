"""Settings of the model and of the trainer: the manifest's `workload.args`, each with a default."""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from agents.rank import WorkloadRefused
from agents.rank.checks.replica import MOST_STEPS

VOCABULARY = 256
"""The model reads bytes."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes, named as in LongCat-Flash's configuration where it has the thing (arXiv 2509.01322), scaled to a CPU."""

    hidden: int = 64
    layers: int = 2
    heads: int = 4
    ffn: int = 128
    expert_ffn: int = 32
    q_rank: int = 32
    kv_rank: int = 16
    nope_dim: int = 16
    rope_dim: int = 8
    v_dim: int = 16
    experts: int = 8
    zero_experts: int = 4
    """Experts that return their input: a token routed to one costs nothing."""
    top_k: int = 3
    routed_scale: float = 2.0
    rope_theta: float = 10_000.0


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """What the trainer does. Two runs with equal settings and world size end in equal bits."""

    model: ModelConfig
    steps: int = 200
    seed: int = 1234
    batch: int = 4
    """Sequences per rank and step."""
    sequence: int = 48
    """Tokens (bytes) per sequence."""
    lr: float = 4e-3
    warmup_steps: int = 10
    weight_decay: float = 0.01
    bias_rate: float = 0.1
    """Gain of the controller that steers expert load through the router's bias buffer."""
    real_experts_per_token: float = 2.0
    """What the controller aims at, out of `top_k`; the rest goes to zero experts."""
    data: str = ""
    """Folder of .py files; empty: the standard library of the running interpreter."""
    data_bytes: int = 2 << 20
    metrics: str = ""
    """File for one JSON line per step; empty: metrics.jsonl in the job's checkpoint folder."""
    memory: int = 1
    """1: keep the state of each step in memory, too (docs/design/0008-state-in-memory.md)."""
    step_floor_ms: float = 0.0
    """Sleep so that a step takes at least this long; for tests."""
    check_every: int = 0
    """Compare replicas' state every so many steps (docs/numbers.md); 0: never."""
    replay_rate: float = 0.0
    """Share of the steps whose forward and backward are computed twice, by two ranks, and compared; 0: none."""
    flip: str = ""
    """Negative control: flip a bit, written as in agents/rank/checks/flip.py; empty: none."""
    skip_batch: int = 0
    """Negative control: from this step on read one batch ahead, as a trainer that lost a batch would; 0: never."""
    drop_buffer: int = 0
    """Negative control: zero the router's bias buffers once, after this step; 0: never."""

    @property
    def data_folder(self) -> Path:
        """Where the text comes from."""
        return Path(self.data or sysconfig.get_paths()["stdlib"])


def train_config(args: Mapping[str, Any]) -> TrainConfig:
    """Read workload args. Raises WorkloadRefused naming the argument that is unknown or has the wrong type."""
    model_names = {field.name for field in fields(ModelConfig)}
    train_names = {field.name for field in fields(TrainConfig)} - {"model"}
    unknown = sorted(set(args) - model_names - train_names)
    if unknown:
        known = ", ".join(sorted(model_names | train_names))
        raise WorkloadRefused(f"unknown argument {', '.join(unknown)}; known: {known}")
    model = _filled(ModelConfig, {name: value for name, value in args.items() if name in model_names})
    config = _filled(TrainConfig, {"model": model, **{k: v for k, v in args.items() if k in train_names}})
    _check(config)
    return config


def _filled(kind: type[T], values: Mapping[str, Any]) -> T:
    """A manifest travels as JSON, in which 20 may have become 20.0: whole numbers are taken as integers."""
    types = {field.name: field.type for field in fields(kind)}  # type: ignore[arg-type]  # T is one of our dataclasses
    converted: dict[str, Any] = {}
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        match types[name]:
            case "int" if number and float(value).is_integer():
                converted[name] = int(value)
            case "float" if number:
                converted[name] = float(value)
            case "str" if isinstance(value, str):
                converted[name] = value
            case "ModelConfig":
                converted[name] = value
            case wanted:
                raise WorkloadRefused(f"argument {name}={value!r} is not of type {wanted}")
    return kind(**converted)


def _check(config: TrainConfig) -> None:
    model = config.model
    if model.rope_dim % 2:
        raise WorkloadRefused(f"rope_dim={model.rope_dim} must be even")
    if not 1 <= model.top_k <= model.experts + model.zero_experts:
        raise WorkloadRefused(f"top_k={model.top_k} must be between 1 and experts + zero_experts")
    if not 0 <= config.check_every <= MOST_STEPS:
        raise WorkloadRefused(f"check_every={config.check_every} must be 0 (never) to {MOST_STEPS} steps")
    if not 0 <= config.replay_rate <= 1:
        raise WorkloadRefused(f"replay_rate={config.replay_rate} is a share of the steps: 0 to 1")
    if min(config.steps, config.batch, config.sequence, model.layers, model.heads) < 1:
        raise WorkloadRefused("steps, batch, sequence, layers and heads must be at least 1")
