"""All that a checkpoint must hold, under canonical names that do not depend on which rank holds what."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from agents.rank import Part
from training_jobs.moe.config import TrainConfig
from training_jobs.moe.experts import Experts
from training_jobs.moe.model import LanguageModel
from training_jobs.moe.optimizer import FlatAdamW
from training_jobs.moe.parallel import ExpertParallel

STEP_NAME = "train.step"
LOSS_NAME = "train.loss"


class TrainState:
    """Model, optimizer and step counter of one rank."""

    def __init__(self, config: TrainConfig, parallel: ExpertParallel) -> None:
        self.model = LanguageModel(config.model, parallel)
        self.routers = [mixture.router for mixture in self.model.mixtures()]
        statistics = 1 + sum(router.load.numel() for router in self.routers)  # the loss and the experts' load
        self.dense = FlatAdamW([parameter for _, parameter in named_dense(self.model)], extra=statistics)
        self.experts = FlatAdamW([p for _, experts in _experts(self.model) for p in experts.parameters()])
        self.counter = torch.zeros((), dtype=torch.int64)
        self.loss = torch.full((), float("nan"))
        """Of the last step, over all replicas; saved, so that a run restored at its end reports the same result."""

    @property
    def step(self) -> int:
        """Finished steps."""
        return int(self.counter)

    @step.setter
    def step(self, step: int) -> None:
        self.counter.fill_(step)

    def initialise(self, seed: int) -> None:
        """First weights: a function of the seed and each tensor's canonical name, whatever the layout; all else as new."""
        for part in self.parts():
            for tensor in part.tensors.values():
                tensor.zero_()
        self.loss.fill_(float("nan"))
        for name, tensor in [*named_dense(self.model), *named_experts(self.model)]:
            initialise(name, tensor, seed)

    def parts(self) -> tuple[Part, Part]:
        """All of it as a few flat tensors, by who holds the same: what is copied at every step."""
        dense = {STEP_NAME: self.counter, LOSS_NAME: self.loss, **self.model.named_buffers_to_save()}
        return (
            Part("dense", {**dense, **self.dense.flat()}, "data_parallel"),
            Part("experts", self.experts.flat(), "expert_data_parallel"),
        )

    def dense_tensors(self) -> dict[str, Tensor]:
        """Live tensors that all data-parallel replicas hold alike: parameters, moments, buffers, the counter."""
        tensors = {STEP_NAME: self.counter, LOSS_NAME: self.loss}
        tensors.update(named_dense(self.model))
        tensors.update(self.model.named_buffers_to_save())
        for name, parameter in named_dense(self.model):
            for moment, tensor in self.dense.moments(parameter).items():
                tensors[f"{name}.{moment}"] = tensor
        return tensors

    def expert_tensors(self) -> dict[str, Tensor]:
        """Live slices of the experts that this rank holds, with their moments."""
        tensors = dict(named_experts(self.model))
        for prefix, experts in _experts(self.model):
            for kind, parameter in experts.named_parameters():
                for moment, stacked in self.experts.moments(parameter).items():
                    for index, slice_ in enumerate(stacked.unbind()):
                        tensors[f"{prefix}.{experts.first + index}.{kind}.{moment}"] = slice_
        return tensors


def model_tensors(model: LanguageModel) -> dict[str, Tensor]:
    """What is needed to run the model: parameters and saved buffers, live."""
    return {**dict(named_dense(model)), **dict(model.named_buffers_to_save()), **dict(named_experts(model))}


def named_dense(model: LanguageModel) -> list[tuple[str, nn.Parameter]]:
    """Parameters outside the experts."""
    inside = tuple(f"{prefix}." for prefix, _ in _experts(model))
    return [(name, parameter) for name, parameter in model.named_parameters() if not name.startswith(inside)]


def named_experts(model: LanguageModel) -> list[tuple[str, Tensor]]:
    """Each local expert's matrices by global index: views of the stacked parameters."""
    return [
        (f"{prefix}.{experts.first + index}.{kind}", slice_)
        for prefix, experts in _experts(model)
        for kind, parameter in experts.named_parameters()
        for index, slice_ in enumerate(parameter.detach().unbind())
    ]


def _experts(model: LanguageModel) -> Iterator[tuple[str, Experts]]:
    for name, module in model.named_modules():
        if isinstance(module, Experts):
            yield name, module


@torch.no_grad()
def initialise(name: str, tensor: Tensor, seed: int) -> None:
    """Norm weights are 1; matrices normal with the deviation of their input width; the head starts near uniform."""
    if tensor.dim() < 2:
        tensor.fill_(1.0)
        return
    key = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
    width = tensor.shape[0] if ".experts." in name else tensor.shape[1]  # experts are stored [in, out]
    deviation = 0.02 if name == "head.weight" else width**-0.5
    tensor.normal_(0.0, deviation, generator=generator)
