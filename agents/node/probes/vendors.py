"""Which probes there are, and which of them this machine needs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Protocol, cast

from agents.node.probes.inventory import on_the_bus
from agents.node.probes.machine import Machine, Memory
from agents.node.probes.reading import Reading

HOST = "host"
TOOLS: Mapping[str, tuple[str, ...]] = {
    "amd": ("amd-smi", "rocm-smi"),
    "ascend": ("npu-smi",),
    "cambricon": ("cnmon",),
    "enflame": ("efsmi",),
    "hygon": ("hy-smi",),
    "kunlunxin": (),
    "metax": ("mx-smi",),
    "mthreads": ("mthreads-gmi",),
    "nvidia": ("nvidia-smi",),
    "thead": ("ppu-smi",),
    HOST: (),
}
"""Every probe, and the tools whose presence shows that the vendor's devices are meant to be here, also when the bus does not
show one. Kunlunxin's tool shares its name with another vendor's and shows nothing by itself."""


class VendorProbe(Protocol):
    """What a vendor's module offers (docs/design/0007-health-at-full-size.md)."""

    VENDOR: str
    PCI_VENDORS: frozenset[str]
    PROVEN: str

    def read(self, machine: Machine, memory: Memory) -> Reading:
        """Everything that can be seen now."""


def load(vendor: str) -> VendorProbe:
    """The module of a vendor. Raises ValueError naming those that exist."""
    if vendor not in TOOLS:
        raise ValueError(f"there is no probe {vendor!r}: choose among {', '.join(sorted(TOOLS))}")
    return cast(VendorProbe, importlib.import_module(f"agents.node.probes.{vendor}"))


def present(machine: Machine) -> tuple[str, ...]:
    """Vendors whose devices are on the bus or whose tool is installed, sorted; the machine itself is always there."""
    found = {HOST}
    for vendor, tools in TOOLS.items():
        if any(machine.has_tool(tool) for tool in tools) or on_the_bus(machine, load(vendor).PCI_VENDORS):
            found.add(vendor)
    return tuple(sorted(found))
