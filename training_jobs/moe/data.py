"""Training text: bytes of Python sources, and batches that are a pure function of (seed, step, data-parallel rank)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agents.rank import WorkloadRefused

SKIPPED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__"})


def load_text(folder: Path, limit: int) -> Tensor:
    """The first `limit` bytes of the .py files below `folder`, as a uint8 tensor, in a fixed order.

    Raises WorkloadRefused when there is nothing to read.
    """
    text = bytearray()
    for path in _sources(folder):
        if len(text) >= limit:
            break
        text += path.read_bytes()
    if not text:
        raise WorkloadRefused(f"data={folder}: no .py files found")
    return torch.frombuffer(text[:limit], dtype=torch.uint8)


def _sources(folder: Path) -> Iterator[Path]:
    """Files of a folder by name, then its subfolders by name; lazily, because few are needed."""
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - SKIPPED_FOLDERS)
        yield from (Path(here, name) for name in sorted(files) if name.endswith(".py"))


def batch(text: Tensor, *, seed: int, step: int, dp_rank: int, rows: int, sequence: int) -> Tensor:
    """`[rows, sequence + 1]` byte values for one rank and step; windows are drawn with replacement."""
    if len(text) <= sequence + 1:
        raise WorkloadRefused(f"{len(text)} bytes of data are too few for sequences of {sequence}")
    key = hashlib.sha256(f"{seed}/{step}/{dp_rank}".encode()).digest()
    draws = np.frombuffer(hashlib.shake_256(key).digest(8 * rows), dtype="<u8")
    starts = (draws % (len(text) - sequence - 1)).tolist()
    return torch.stack([text[start : start + sequence + 1] for start in starts]).long()
