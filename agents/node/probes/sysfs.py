"""What the kernel itself shows of a PCI device, for vendors whose tools do not tell it."""

from __future__ import annotations

from agents.node.probes.findings import Findings
from agents.node.probes.machine import Machine, Unreadable

_LANES = (("pcie_width", "current_link_width"), ("pcie_width_max", "max_link_width"))


def read_lanes(found: Findings, machine: Machine, address: str) -> None:
    """Lanes in use and lanes that the device could use."""
    folder = f"/sys/bus/pci/devices/{address}"
    names = machine.names(folder)
    for metric, name in _LANES:
        found.measure(metric, file_text(found, machine, f"{folder}/{name}") if name in names else None)


def file_text(found: Findings, machine: Machine, path: str) -> str | None:
    """A file that is there; when it cannot be read, a doubt: the device may no longer answer."""
    try:
        return machine.text(path).strip()
    except Unreadable as error:
        found.doubt(str(error))
        return None
