"""What the kernel itself shows of a PCI device, for vendors whose tools do not tell it."""

from __future__ import annotations

from agents.node.probes.findings import Findings
from agents.node.probes.machine import Machine, Unreadable
from agents.node.probes.quantity import whole

_MOST = "max_link_width"
_LANES = (("pcie_width", "current_link_width"), ("pcie_width_max", _MOST))


def read_lanes(found: Findings, machine: Machine, address: str) -> None:
    """Lanes in use, and lanes that device and slot could use: a card in a narrow slot is no fault."""
    folder = f"/sys/bus/pci/devices/{address}"
    names = machine.names(folder)
    for metric, name in _LANES:
        found.measure(metric, file_text(found, machine, f"{folder}/{name}") if name in names else None)
    if _MOST in machine.names(f"{folder}/.."):  # the folder is a link: above it lies the port that the device hangs on
        slot = whole(file_text(found, machine, f"{folder}/../{_MOST}") or "")
        most = found.value("pcie_width_max")
        if most is not None and slot is not None and 0 < slot < most:
            found.put("pcie_width_max", slot)


def file_text(found: Findings, machine: Machine, path: str) -> str | None:
    """A file that is there; when it cannot be read, a doubt: the device may no longer answer."""
    try:
        return machine.text(path).strip()
    except Unreadable as error:
        found.doubt(str(error))
        return None
