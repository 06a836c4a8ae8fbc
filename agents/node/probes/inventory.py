"""What every vendor's probe does with its list of devices: compare it with the PCI bus and with what was there before."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from agents.node.probes.machine import Machine, Memory, PciDevice
from agents.node.probes.reading import Device, Fault, Health, Severity, Unread

ACCELERATOR_KINDS = frozenset({"0300", "0302", "0380", "0b40", "1200"})
"""PCI classes of accelerators: display, 3D, other display, co-processor, processing accelerator. A vendor's bridges, audio
and switch functions are none."""

_OTHER_DEVICES = frozenset({("19e5", "1711")})
"""Display functions of the same vendors that are none: Huawei's management controller."""

_ADDRESS = re.compile(r"(?:([0-9a-f]{1,8}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])")
_ADDRESS_INSIDE = re.compile(r"\b[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\b")


@dataclass(frozen=True, slots=True)
class Inventory:
    """All devices of a vendor, also those that its tool did not list, and what is to be said of these."""

    devices: tuple[Device, ...]
    faults: tuple[Fault, ...]
    unread: tuple[Unread, ...]


def pci_address(text: str) -> str | None:
    """A PCI address as `0000:c1:00.0`, from any way to write it (`00000000:C1:00.0`, `c1:00.0`); None when it is none."""
    found = _ADDRESS.fullmatch(text.strip().lower())
    if found is None:
        return None
    domain = int(found[1] or "0", 16)
    return f"{domain:04x}:{found[2]}:{found[3]}.{found[4]}"


def on_the_bus(machine: Machine, vendors: frozenset[str]) -> tuple[PciDevice, ...]:
    """The vendor's accelerators on the PCI bus, by address."""
    return tuple(
        row
        for row in machine.pci()
        if row.vendor in vendors and row.kind in ACCELERATOR_KINDS and (row.vendor, row.device) not in _OTHER_DEVICES
    )


def address_in(text: str) -> str | None:
    """The first PCI address with its domain in a text; None when there is none."""
    found = _ADDRESS_INSIDE.search(text.lower())
    return pci_address(found[0]) if found else None


def positions(addresses: Iterable[str], bus: Sequence[PciDevice]) -> dict[str, int]:
    """Position by PCI address: on the bus, so that a device that is missing moves no other; in the list where no bus is seen."""
    order = {row.address: position for position, row in enumerate(bus)}
    for address in addresses:
        order.setdefault(address, len(order))
    return order


def inventory(devices: Sequence[Device], bus: Sequence[PciDevice], memory: Memory, *, complete: bool) -> Inventory:
    """`devices` as the vendor's tool listed them, completed by the bus and by what was there before.

    `complete`: the tool's list was read to its end, so that what it does not name is gone. A device that was there before is
    lost (FAILED, `DEVICE-LOST`) when a complete list, or the bus that showed it, no longer has it; otherwise it is UNKNOWN.
    What only the bus shows is UNKNOWN under its address, and an Unread names it.
    """
    before: dict[str, Device] = memory.setdefault("inventory.devices", {})
    shown: set[str] = memory.setdefault("inventory.bus", set())
    rows = {row.address: row for row in bus}
    told = {device.pci_address for device in devices} | {device.serial for device in devices}
    found, faults, unread = list(devices), [], []
    for known in before.values():
        if known.serial in told or known.pci_address in told:
            continue
        if complete or (known.pci_address in shown and known.pci_address not in rows):
            found.append(replace(known, health=Health.FAILED, metrics={}))
            faults.append(_lost(known))
        else:
            found.append(replace(known, health=Health.UNKNOWN, metrics={}))
    named = {device.pci_address for device in found}
    for position, row in enumerate(bus):
        if row.address not in named:
            taken = {device.index for device in found}
            index = position if position not in taken else max(taken) + 1
            model = f"{row.vendor}:{row.device}"
            found.append(Device(index, f"pci-{row.address}", row.address, model, Health.UNKNOWN))
            unread.append(Unread("PCI", f"the bus shows {row.address}, and no tool of its vendor names it", (index,)))
    before |= {device.serial: device for device in devices}
    shown.update(rows)
    _forget_exchanged(before, devices)
    return Inventory(tuple(sorted(found, key=lambda device: device.index)), tuple(faults), tuple(unread))


def _lost(device: Device) -> Fault:
    text = f"{device.model} {device.serial} at {device.pci_address} was there before and is gone"
    return Fault(f"accelerator/{device.index}", "DEVICE-LOST", Severity.CRITICAL, message=text)


def _forget_exchanged(before: dict[str, Device], devices: Sequence[Device]) -> None:
    """Drop what stood before where another device stands now: it was exchanged, not lost."""
    serial_at = {device.pci_address: device.serial for device in devices}
    for serial, device in list(before.items()):
        if serial_at.get(device.pci_address, serial) != serial:
            del before[serial]
