"""Flipped bits for tests and benchmarks of the checks; no product code calls this.

A flip is written `place/part/rank=R/step=S/bit=B/index=I`, with `/stuck` at the end for one that stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PLACES = ("weights", "exp_avg", "exp_avg_sq", "gradient", "activation")
PARTS = ("dense", "experts")


@dataclass(slots=True)
class Flip:
    """One bit of one element of a float32 tensor on one rank, from a step on: once, or stuck at what it is not there at
    first."""

    place: str
    part: str
    rank: int
    step: int
    bit: int
    index: int
    stuck: bool = False
    done: int = 0
    """How often it was applied."""
    _value: int = -1

    @staticmethod
    def parse(text: str) -> Flip:
        """Read the written form. Raises ValueError with what is wrong."""
        words = text.split("/")
        stuck = words[-1] == "stuck"
        numbers = dict(word.partition("=")[::2] for word in words[2 : len(words) - stuck])
        wanted = {"rank", "step", "bit", "index"}
        if len(words) < 2 or words[0] not in PLACES or words[1] not in PARTS or set(numbers) != wanted:
            raise ValueError(
                f"flip={text!r} is not place/part/rank=R/step=S/bit=B/index=I[/stuck] with a place of {', '.join(PLACES)} and "
                f"a part of {', '.join(PARTS)}"
            )
        try:
            rank, step, bit, index = (int(numbers[name]) for name in ("rank", "step", "bit", "index"))
        except ValueError as error:
            raise ValueError(f"flip={text!r}: {error}") from error
        if not 0 <= bit < 32 or min(rank, step, index) < 0:
            raise ValueError(f"flip={text!r}: a bit is 0 to 31, and no number is negative")
        return Flip(words[0], words[1], rank, step, bit, index, stuck)

    def strike(self, place: str, part: str, rank: int, step: int, tensor: Tensor) -> None:
        """Apply it to `tensor` if this is its place, rank and time; what is stuck is so from then on, also when earlier steps are
        done again. The index is taken modulo the size."""
        if (place, part, rank) != (self.place, self.part, self.rank):
            return
        if not self.stuck if self.done else step < self.step:
            return
        flat = tensor.detach().reshape(-1)  # contiguous: a view
        bits = flat.view(torch.int32)
        at = self.index % bits.numel()
        mask = 1 << self.bit if self.bit < 31 else -(1 << 31)
        before = int(bits[at])
        if self._value < 0:
            self._value = int(not before & mask)
        bits[at] = before | mask if self._value else before & ~mask
        self.done += 1
