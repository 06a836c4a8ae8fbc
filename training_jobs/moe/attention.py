"""Multi-head latent attention: queries and keys/values through low-rank projections, position in a separate part.

After `LongcatFlashMLA` of transformers 5.23.0 (itself DeepSeek-V2's MLA with LongCat's two scale factors).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training_jobs.moe.config import ModelConfig

MAX_POSITIONS = 4096


class LatentAttention(nn.Module):
    """Causal attention over `[batch, sequence, hidden]`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        query_dim = config.nope_dim + config.rope_dim
        self.q_down = nn.Linear(config.hidden, config.q_rank, bias=False)
        self.q_norm = nn.RMSNorm(config.q_rank, eps=1e-5)
        self.q_up = nn.Linear(config.q_rank, config.heads * query_dim, bias=False)
        self.kv_down = nn.Linear(config.hidden, config.kv_rank + config.rope_dim, bias=False)
        self.kv_norm = nn.RMSNorm(config.kv_rank, eps=1e-5)
        self.kv_up = nn.Linear(config.kv_rank, config.heads * (config.nope_dim + config.v_dim), bias=False)
        self.out = nn.Linear(config.heads * config.v_dim, config.hidden, bias=False)
        self.q_scale = (config.hidden / config.q_rank) ** 0.5
        self.kv_scale = (config.hidden / config.kv_rank) ** 0.5

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """`rope` is the complex table of `rope_table` for the first `sequence` positions."""
        c = self.config
        batch, sequence, _ = x.shape
        q = self.q_up(self.q_norm(self.q_down(x))).view(batch, sequence, c.heads, -1).transpose(1, 2) * self.q_scale
        q_nope, q_rope = q.split([c.nope_dim, c.rope_dim], dim=-1)
        latent, k_rope = self.kv_down(x).split([c.kv_rank, c.rope_dim], dim=-1)
        kv = self.kv_up(self.kv_norm(latent) * self.kv_scale).view(batch, sequence, c.heads, -1).transpose(1, 2)
        k_nope, v = kv.split([c.nope_dim, c.v_dim], dim=-1)
        k_rope = rotate(k_rope.unsqueeze(1), rope).expand(-1, c.heads, -1, -1)
        q = torch.cat([q_nope, rotate(q_rope, rope)], dim=-1)
        k = torch.cat([k_nope, k_rope], dim=-1)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, sequence, -1))  # type: ignore[no-any-return]


def rope_table(config: ModelConfig, positions: int = MAX_POSITIONS) -> Tensor:
    """Unit complex numbers `[positions, rope_dim / 2]`: the rotation of each pair at each position."""
    rates = config.rope_theta ** (-torch.arange(0, config.rope_dim, 2, dtype=torch.float32) / config.rope_dim)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), rates)
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate neighbouring pairs of the last dimension of `[..., sequence, rope_dim]`."""
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rope).flatten(-2)
