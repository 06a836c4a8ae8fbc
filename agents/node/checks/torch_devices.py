"""The vendor's devices as torch sees them, whichever vendor's backend is installed (`torch.accelerator`)."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import numpy as np


class TorchDevices:
    """Devices of one kind. In a child process only: a vendor's library may crash or never return.

    Indexes are torch's; the child counts as the PCI bus does, as probes count. `only`: these entities, none: all.
    """

    def __init__(self, torch: Any, kind: str, count: int, only: tuple[str, ...]) -> None:
        self._torch = torch
        self.kind = kind
        self.indexes = tuple(
            index for index in range(count) if not only or {self.entity(index), f"accelerator/{index}"} & {*only}
        )

    def entity(self, index: int) -> str:
        """`pci/<address>` where torch says where the device sits, `accelerator/<index>` where it does not."""
        if self.kind == "cuda":
            facts = self._torch.cuda.get_device_properties(index)
            if hasattr(facts, "pci_bus_id"):
                return f"pci/{facts.pci_domain_id:04x}:{facts.pci_bus_id:02x}:{facts.pci_device_id:02x}.0"
        return f"accelerator/{index}"

    def put(self, values: np.ndarray, index: int) -> Any:
        """An array on a device."""
        return self._torch.from_numpy(values).to(f"{self.kind}:{index}")

    def take(self, tensor: Any) -> np.ndarray:
        """A tensor as an array of this process; waits for the device."""
        array: np.ndarray = tensor.cpu().numpy()
        return array

    def wait(self, index: int) -> None:
        """Until the device has done what it was given."""
        self._torch.accelerator.synchronize(index)


def find(only: tuple[str, ...] = ()) -> TorchDevices | None:
    """The devices of this machine; None where there is no torch, or torch sees none. `only`: these entities."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if importlib.util.find_spec("torch") is None:
        return None
    import torch  # noqa: PLC0415  seconds, and only a check of devices needs it

    if not torch.accelerator.is_available():
        return None
    kind = torch.accelerator.current_accelerator()
    return TorchDevices(torch, kind.type, torch.accelerator.device_count(), only) if kind is not None else None
