"""AdamW over flat buffers: parameters, gradients and moments of one replica set each lie in one tensor.

One buffer per kind makes the gradient all-reduce one call in a layout that never changes (parallel.py), and the update a
handful of operations. `torch.optim.AdamW` computes the same (tested), but importing it brings torch's compiler, 0.6 s of
CPU in every process that starts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


class FlatAdamW:
    """Takes over the storage of `parameters`: their values and `.grad` become views of its buffers.

    `extra` numbers at the end of `gradients` belong to the caller and travel with the all-reduce.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], extra: int = 0) -> None:
        sizes = [parameter.numel() for parameter in parameters]
        self.values = torch.zeros(sum(sizes))
        self.gradients = torch.zeros(sum(sizes) + extra)
        self.exp_avg = torch.zeros_like(self.values)
        self.exp_avg_sq = torch.zeros_like(self.values)
        self._range: dict[int, slice] = {}
        start = 0
        for parameter, size in zip(parameters, sizes, strict=True):
            where = self._range[id(parameter)] = slice(start, start + size)
            self.values[where].view_as(parameter).copy_(parameter.detach())
            parameter.data = self.values[where].view_as(parameter)
            parameter.grad = self.gradients[where].view_as(parameter)
            start += size
        self.extra = self.gradients[start:]

    def flat(self) -> dict[str, Tensor]:
        """The live buffers of values and moments."""
        return {"values": self.values, **{moment: getattr(self, moment) for moment in MOMENTS}}

    def moments(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The live moments of one parameter, in its shape."""
        where = self._range[id(parameter)]
        return {moment: getattr(self, moment)[where].view_as(parameter) for moment in MOMENTS}

    @torch.no_grad()
    def step(
        self,
        count: int,
        *,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        """Update number `count`, from 1 (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2)."""
        gradients = self.gradients[: len(self.values)]
        self.exp_avg.lerp_(gradients, 1 - betas[0])
        self.exp_avg_sq.mul_(betas[1]).addcmul_(gradients, gradients, value=1 - betas[1])
        scale = (self.exp_avg_sq.sqrt() / math.sqrt(1 - betas[1] ** count)).add_(eps)
        self.values.mul_(1 - lr * weight_decay)
        self.values.addcdiv_(self.exp_avg, scale, value=-lr / (1 - betas[0] ** count))
