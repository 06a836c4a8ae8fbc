"""A sum over two nodes with a known answer, through torch: the vendor's backend on each device, gloo where there is none."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

ELEMENTS = 4 << 20
ROUNDS = 3
LIMIT = timedelta(seconds=60)
Swap = Callable[[dict[str, Any]], dict[str, Any]]
"""Tells the other node something and gives what it tells."""


@dataclass(frozen=True, slots=True)
class Summed:
    """`text`: what came out, and how fast."""

    backend: str
    right: bool
    text: str


def possible() -> bool:
    """Whether torch is installed."""
    return importlib.util.find_spec("torch") is not None


def add_up(rank: int, here: str, root: str, swap: Swap, *, spoil: bool = False) -> Summed:
    """Add up on the devices that both have, else on the processors.

    Args:
        rank: 0 keeps the store.
        here: own address on the path.
        root: address of rank 0.
        spoil: put one element wrong, in trials.

    Raises:
        OSError: the two did not come together.
    """
    import torch  # noqa: PLC0415  seconds, and only a test of sums needs it
    from torch import distributed as dist  # noqa: PLC0415
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # noqa: PLC0415  not in its __all__

    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    mine = (
        {"kind": kind.type, "count": torch.accelerator.device_count()}
        if kind is not None
        else {"kind": "cpu", "count": 1}
    )
    store = TCPStore(root, 0, 2, is_master=True, wait_for_workers=False, timeout=LIMIT) if rank == 0 else None
    other = swap({**mine, "port": store.port if store is not None else 0})
    same = {"kind": other["kind"], "count": other["count"]} == mine
    try:
        if store is None:
            store = TCPStore(root, int(other["port"]), 2, is_master=False, timeout=LIMIT)
        if kind is None or not same:
            return _on_processors(torch, dist, store, rank, here, spoil=spoil)
        return _on_devices(torch, dist, store, rank, kind.type, spoil=spoil)
    except RuntimeError as error:  # what torch raises for anything that goes wrong between the two
        raise ConnectionError(f"the two could not add up: {str(error).splitlines()[0][:200]}") from error


def _on_processors(torch: Any, dist: Any, store: Any, rank: int, here: str, *, spoil: bool) -> Summed:
    """Gloo over the very path that the two have met on."""
    options = dist.ProcessGroupGloo._Options()  # noqa: SLF001  torch offers no other way to name the device
    options._devices = [dist.ProcessGroupGloo.create_device(hostname=here)]  # noqa: SLF001
    options._timeout = LIMIT  # noqa: SLF001
    group = dist.ProcessGroupGloo(store, rank, 2, options)
    return _rounds(torch, "cpu", "gloo", rank, lambda tensor: group.allreduce([tensor]).wait(), spoil=spoil)


def _on_devices(torch: Any, dist: Any, store: Any, rank: int, kind: str, *, spoil: bool) -> Summed:
    """Each device with its opposite, one after the other; the first that is wrong is told."""
    backend = dist.get_default_backend_for_device(kind)
    dist.init_process_group(backend, store=store, rank=rank, world_size=2, timeout=LIMIT)
    try:
        for index in range(torch.accelerator.device_count()):
            torch.accelerator.set_device_index(index)
            found = _rounds(torch, f"{kind}:{index}", backend, rank, dist.all_reduce, spoil=spoil)
            if not found.right:
                break
        return found
    finally:
        dist.destroy_process_group()


def _rounds(torch: Any, place: str, backend: str, rank: int, add: Callable[[Any], object], *, spoil: bool) -> Summed:
    """Integers that single precision holds: the answer is exact, in whatever order the two are added."""
    pattern = (torch.arange(ELEMENTS, dtype=torch.float32) % 1_000).to(place)
    best_s = float("inf")
    for _ in range(ROUNDS):
        tensor = pattern * (rank + 1)
        if spoil:
            tensor[ELEMENTS // 2] += 1
        began = time.perf_counter()
        add(tensor)
        right = bool(torch.equal(tensor, pattern * 3))  # waits for the device
        best_s = min(best_s, time.perf_counter() - began)
        if not right:
            return Summed(backend, right=False, text=f"a sum through {backend} on {place} came out wrong")
    speed = 4 * ELEMENTS / best_s / 1e6
    return Summed(backend, right=True, text=f"sums through {backend} came out right, {speed:,.0f} MB/s")
