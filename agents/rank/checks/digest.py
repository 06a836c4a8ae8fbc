"""Digests of tensors: 128 bits that tell damage, not forgery."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import xxhash
from torch import Tensor

DIGEST_BYTES = 16


def digest(tensors: Iterable[Tensor]) -> bytes:
    """xxh3-128 over the bytes of the tensors, in order. On a CPU nothing is copied (about 10 GB/s a core); tensors of another
    device are copied to the host first, one at a time."""
    state = xxhash.xxh3_128()
    for tensor in tensors:
        flat = tensor.detach().reshape(-1).view(torch.uint8)
        state.update(flat.cpu().numpy().data)
    return state.digest()
