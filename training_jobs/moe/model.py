"""The language model: shortcut-connected blocks after LongCat-Flash, over bytes."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional

from training_jobs.moe.attention import MAX_POSITIONS, LatentAttention, rope_table
from training_jobs.moe.config import VOCABULARY, ModelConfig
from training_jobs.moe.experts import MixtureOfExperts
from training_jobs.moe.parallel import ExpertParallel


class DenseFeedForward(nn.Module):
    """Gated FFN that every token passes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden, config.ffn, bias=False)
        self.up = nn.Linear(config.hidden, config.ffn, bias=False)
        self.down = nn.Linear(config.ffn, config.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., hidden]` to the same shape."""
        return self.down(functional.silu(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


class ShortcutBlock(nn.Module):
    """Two attentions and two dense FFNs in sequence; the experts branch off after the first attention.

    The branch joins again at the end of the block, so on hardware with streams its all-to-all hides behind the dense
    path (ScMoE; `LongcatFlashDecoderLayer` in transformers 5.23.0).
    """

    def __init__(self, config: ModelConfig, parallel: ExpertParallel) -> None:
        super().__init__()
        self.attention = nn.ModuleList(LatentAttention(config) for _ in range(2))
        self.attention_norm = nn.ModuleList(nn.RMSNorm(config.hidden, eps=1e-5) for _ in range(2))
        self.dense = nn.ModuleList(DenseFeedForward(config) for _ in range(2))
        self.dense_norm = nn.ModuleList(nn.RMSNorm(config.hidden, eps=1e-5) for _ in range(2))
        self.moe = MixtureOfExperts(config, parallel)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """`[batch, sequence, hidden]` to the same shape."""
        x = x + self.attention[0](self.attention_norm[0](x), rope)
        normed = self.dense_norm[0](x)
        shortcut = self.moe(normed)
        x = x + self.dense[0](normed)
        x = x + self.attention[1](self.attention_norm[1](x), rope)
        return x + self.dense[1](self.dense_norm[1](x)) + shortcut  # type: ignore[no-any-return]


class LanguageModel(nn.Module):
    """Bytes in, logits over the next byte out."""

    rope: Tensor

    def __init__(self, config: ModelConfig, parallel: ExpertParallel | None = None) -> None:
        super().__init__()
        self.config = config
        parallel = parallel or ExpertParallel.alone()
        self.embedding = nn.Embedding(VOCABULARY, config.hidden)
        self.blocks = nn.ModuleList(ShortcutBlock(config, parallel) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.hidden, eps=1e-5)
        self.head = nn.Linear(config.hidden, VOCABULARY, bias=False)
        self.register_buffer("rope", rope_table(config), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `[batch, sequence, 256]` for `[batch, sequence]` byte values."""
        if tokens.shape[1] > MAX_POSITIONS:
            raise ValueError(f"sequence of {tokens.shape[1]} tokens; the model has {MAX_POSITIONS} positions")
        x = self.embedding(tokens)
        rope = self.rope[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, rope)
        return self.head(self.norm(x))  # type: ignore[no-any-return]

    def loss(self, text: Tensor) -> Tensor:
        """Mean cross-entropy (nats per byte) of `[batch, sequence + 1]` byte values."""
        logits = self(text[:, :-1])
        return functional.cross_entropy(logits.reshape(-1, VOCABULARY), text[:, 1:].reshape(-1))

    def mixtures(self) -> Iterator[MixtureOfExperts]:
        """The expert layers, first to last."""
        for block in self.blocks:
            assert isinstance(block, ShortcutBlock)
            yield block.moe

    def named_buffers_to_save(self) -> dict[str, Tensor]:
        """The router biases: buffers that training moves."""
        return {f"blocks.{index}.moe.router.bias": mixture.router.bias for index, mixture in enumerate(self.mixtures())}
