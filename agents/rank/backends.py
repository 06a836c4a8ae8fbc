"""Vendors as data: device type, collective backend, module that registers them, variable that hides devices.

Only `cpu` with gloo runs where this was written and tested; the other rows are what each vendor documents for its
PyTorch plug-in, to be confirmed on such hardware before use. Sources are in the accelerator notes of the design.
"""

from __future__ import annotations

from dataclasses import dataclass

from agents.rank.errors import WorkloadRefused


@dataclass(frozen=True, slots=True)
class VendorBackend:
    """How one vendor's accelerators appear in PyTorch."""

    vendor: str
    device_type: str
    collectives: str
    module: str
    """Imported before the device is used; empty when torch itself has it."""
    visible_devices: str
    """Environment variable with the indices a process may see; empty: there is none."""
    runnable: bool = False
    """True where this library can build its process groups. See docs/writing-a-workload.md."""


BACKENDS: tuple[VendorBackend, ...] = (
    VendorBackend("simulated", "cpu", "gloo", "", "", runnable=True),
    VendorBackend("cpu", "cpu", "gloo", "", "", runnable=True),
    VendorBackend("nvidia", "cuda", "nccl", "", "CUDA_VISIBLE_DEVICES"),
    VendorBackend("amd", "cuda", "nccl", "", "HIP_VISIBLE_DEVICES"),
    VendorBackend("intel", "xpu", "xccl", "", "ZE_AFFINITY_MASK"),
    VendorBackend("ascend", "npu", "hccl", "torch_npu", "ASCEND_RT_VISIBLE_DEVICES"),
    VendorBackend("cambricon", "mlu", "cncl", "torch_mlu", "MLU_VISIBLE_DEVICES"),
    VendorBackend("moorethreads", "musa", "mccl", "torch_musa", "MUSA_VISIBLE_DEVICES"),
    VendorBackend("thead", "cuda", "nccl", "", "CUDA_VISIBLE_DEVICES"),
    VendorBackend("metax", "cuda", "nccl", "", "CUDA_VISIBLE_DEVICES"),
    VendorBackend("hygon", "cuda", "nccl", "", "HIP_VISIBLE_DEVICES"),
    VendorBackend("kunlunxin", "cuda", "bkcl", "torch_xmlir", "XPU_VISIBLE_DEVICES"),
    VendorBackend("enflame", "gcu", "eccl", "torch_gcu", "TOPS_VISIBLE_DEVICES"),
)


def backend_for(vendor: str) -> VendorBackend:
    """The row of `vendor`. Raises WorkloadRefused for a vendor that is not in the table: unknown is not cpu."""
    for row in BACKENDS:
        if row.vendor == vendor:
            return row
    known = ", ".join(row.vendor for row in BACKENDS)
    raise WorkloadRefused(f"no collective backend known for vendor {vendor!r}; known: {known}")
