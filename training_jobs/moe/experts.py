"""Routed experts, zero-computation experts, and the router whose bias is a buffer moved by a controller."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from training_jobs.moe.config import ModelConfig
from training_jobs.moe.parallel import ExpertParallel


class Router(nn.Module):
    """Top-k over real and zero experts. Scores are softmax probabilities; the bias takes part in the choice only.

    The bias is a *buffer*: no gradient reaches it, `steer` moves it, and a checkpoint without it restores a different
    model (LongCat-Flash report, section on zero-computation experts; transformers `LongcatFlashTopkRouter`).
    """

    bias: Tensor
    load: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.classifier = nn.Linear(config.hidden, config.experts + config.zero_experts, bias=False)
        self.register_buffer("bias", torch.zeros(config.experts + config.zero_experts))
        self.register_buffer("load", torch.zeros(config.experts + config.zero_experts), persistent=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """For `[tokens, hidden]` the chosen experts and their weights, both `[tokens, top_k]`."""
        scores = functional.softmax(self.classifier(tokens), dim=-1)
        with torch.no_grad():
            chosen = torch.topk(scores + self.bias, self.config.top_k, dim=-1).indices
            self.load.copy_(torch.bincount(chosen.flatten(), minlength=self.load.numel()))
        return chosen, scores.gather(1, chosen) * self.config.routed_scale

    @torch.no_grad()
    def steer(self, load: Tensor, *, real_per_token: float, rate: float) -> None:
        """Move the bias of each real expert towards its share of the *global* `load` (choices per expert).

        The integral controller of LongCat-Flash: real expert i aims at `real_per_token / (top_k * experts)` of all
        choices; zero experts take the rest and are not moved.
        """
        experts = self.config.experts
        share = load[:experts] / load.sum().clamp(min=1.0)
        self.bias[:experts] += rate * (real_per_token / (self.config.top_k * experts) - share)


class Experts(nn.Module):
    """The real experts with global indices `first .. first + count`: gated FFNs, stacked."""

    def __init__(self, config: ModelConfig, first: int, count: int) -> None:
        super().__init__()
        self.first = first
        self.gate = nn.Parameter(torch.empty(count, config.hidden, config.expert_ffn))
        self.up = nn.Parameter(torch.empty(count, config.hidden, config.expert_ffn))
        self.down = nn.Parameter(torch.empty(count, config.expert_ffn, config.hidden))

    def forward(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """`rows` sorted by expert; `counts[i]` of them belong to local expert i."""
        outputs = [
            (functional.silu(x @ gate) * (x @ up)) @ down
            for x, gate, up, down in zip(
                torch.split(rows, list(counts)), self.gate.unbind(), self.up.unbind(), self.down.unbind(), strict=True
            )
        ]
        return torch.cat(outputs)


class MixtureOfExperts(nn.Module):
    """Router, zero experts and this rank's share of the real experts; the others are reached by all-to-all."""

    def __init__(self, config: ModelConfig, parallel: ExpertParallel) -> None:
        super().__init__()
        self.config = config
        self.parallel = parallel
        count = config.experts // parallel.size
        self.router = Router(config)
        self.experts = Experts(config, first=parallel.index * count, count=count)

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, sequence, hidden]` to the same shape."""
        tokens = x.reshape(-1, x.shape[-1])
        chosen, weights = self.router(tokens)
        real = chosen < self.config.experts
        identity = tokens * (weights * ~real).sum(dim=1, keepdim=True)
        flat = torch.where(real, chosen, self.config.experts).flatten()
        order = torch.argsort(flat, stable=True)[: int(real.sum())]  # choices of real experts, sorted by expert
        counts = torch.bincount(flat, minlength=self.config.experts + 1)[: self.config.experts]
        source = order // self.config.top_k
        answers = self.parallel(tokens.index_select(0, source), counts, self.experts)
        weighted = answers * weights.flatten().index_select(0, order).unsqueeze(1)
        mixed: Tensor = identity.index_add(0, source, weighted)
        return mixed.view_as(x)
