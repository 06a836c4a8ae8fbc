"""One digest of everything that training has produced, the same on every rank and for every layout."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor

from agents.rank import Groups, ReplicaDivergence
from training_jobs.moe.state import TrainState


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 over type, shape and bytes."""
    digest = hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
    digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Digest of each tensor."""
    return {name: tensor_digest(tensor) for name, tensor in tensors.items()}


def combined(by_name: Mapping[str, str]) -> str:
    """SHA-256 over `name digest` lines in name order."""
    return hashlib.sha256("".join(f"{name} {by_name[name]}\n" for name in sorted(by_name)).encode()).hexdigest()


def state_digest(state: TrainState, groups: Groups | None) -> str:
    """Digest of all dense parts and all experts of all ranks: parameters, buffers, optimizer state, step.

    Raises ReplicaDivergence, naming tensors, when two ranks that hold the same tensor hold different bits.
    """
    mine = digests({**state.dense_tensors(), **state.expert_tensors()})
    if groups is None:
        return combined(mine)
    text = "".join(f"{name} {digest}\n" for name, digest in mine.items())
    return combined(merged(groups.world.all_gather_bytes(text.encode())))


def merged(tables: list[bytes]) -> dict[str, str]:
    """Union of the ranks' digest tables. Raises ReplicaDivergence where they disagree."""
    union: dict[str, str] = {}
    holder: dict[str, int] = {}
    differing: list[str] = []
    for rank, table in enumerate(tables):
        for line in table.decode().splitlines():
            name, digest = line.split(" ")
            if union.setdefault(name, digest) != digest:
                differing.append(f"{name} (rank {rank} against rank {holder[name]})")
            holder.setdefault(name, rank)
    if differing:
        shown = ", ".join(differing[:5])
        raise ReplicaDivergence(f"{len(differing)} tensors differ between replicas: {shown}")
    return union
