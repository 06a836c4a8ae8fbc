"""Boards as a vendor's source lists them, and the reading that they make together with the bus and with what was there before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from agents.node.probes.findings import Findings
from agents.node.probes.inventory import inventory, positions
from agents.node.probes.machine import Machine, Memory, PciDevice, Unreadable
from agents.node.probes.reading import Reading, Severity, Unread

Library = TypeVar("Library")


@dataclass(slots=True)
class Board:
    """One device: identity, findings, and which of its links are up, in their order. `links`: None when they were not told,
    empty when all are inactive or it has none."""

    address: str
    serial: str
    model: str
    findings: Findings
    links: tuple[bool, ...] | None = None


@dataclass(slots=True)
class Listing:
    """All devices that one source listed. `complete`: its list was read to the end. `announced`: how many it said that there
    are, in its own words; "" when it does not say."""

    boards: list[Board] = field(default_factory=list)
    complete: bool = True
    announced: str = ""
    unread: list[Unread] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    def leave_out(self, source: str, reason: str) -> None:
        """A device of the list that cannot be told: the list is not complete."""
        self.complete = False
        self.unread.append(Unread(source, reason))


def opened(machine: Machine, memory: Memory, name: str, opener: Callable[[Any], Library]) -> Library | None:
    """A vendor's binding, opened once per process; None when it or its library is not there, and the tool is asked instead."""
    if "library" not in memory:
        module = machine.module(name)
        try:
            memory["library"] = None if module is None else opener(module)
        except Unreadable:
            memory["library"] = None
    library: Library | None = memory["library"]
    return library


def assembled(
    vendor: str, listed: Listing, bus: Sequence[PciDevice], memory: Memory, order: dict[str, int] | None = None
) -> Reading:
    """The reading of a listing, without events. `order`: position by PCI address; that of the bus when none is given, so that
    a device that is missing moves no other."""
    _told_apart(listed.boards)
    _judge(listed.boards, memory)
    place = positions((board.address for board in listed.boards), bus) if order is None else order
    devices = [
        board.findings.device(place[board.address], board.serial, board.address, board.model) for board in listed.boards
    ]
    found = inventory(devices, bus, memory, complete=listed.complete)
    faults = [fault for board in listed.boards for fault in board.findings.faults_of(place[board.address])]
    unread = [entry for board in listed.boards for entry in board.findings.unread(place[board.address])]
    everything = tuple(device.index for device in found.devices)
    general = [replace(entry, accelerators=entry.accelerators or everything) for entry in listed.unread]
    return Reading(vendor, found.devices, (*faults, *found.faults), (*general, *unread, *found.unread), listed.versions)


def places(reading: Reading) -> dict[str, int]:
    """Position by PCI address, for events that name an address."""
    return {device.pci_address: device.index for device in reading.devices}


def _told_apart(boards: Sequence[Board]) -> None:
    """Boards without a serial number of their own share what their vendor prints: these are named by their address too."""
    serials = [board.serial for board in boards]
    for board in boards:
        if not board.serial or serials.count(board.serial) > 1:
            board.serial = f"{board.serial}@{board.address}"


def _judge(boards: Sequence[Board], memory: Memory) -> None:
    """What follows from several boards together, and from before: lanes and links that are missing, errors that are new."""
    before: dict[str, float] = memory.setdefault("errors", {})
    for board in boards:
        board.findings.narrow_pcie()
        errors = board.findings.value("ecc_uncorrected_total")
        text = f"{errors} uncorrectable memory errors"
        board.findings.grown("ECC-UNCORRECTED", Severity.MAJOR, errors, before.get(board.serial), text)
        if errors is not None:
            before[board.serial] = errors
    _judge_links(boards, memory.setdefault("links", {}))


def _judge_links(boards: Sequence[Board], before: dict[str, int]) -> None:
    """How many links should be up depends on the board, and no tool says it: as many as it had before, or as many as all its
    sisters on this node have, when it alone has fewer. Boards that are bridged in pairs have none in even numbers, and are no
    fault. A list that is shorter than its sisters' ended early, and convicts nobody."""
    told = [board for board in boards if board.links is not None]
    for board in boards:
        found = board.findings
        if board.links is None:
            if before.get(board.serial):
                found.doubt("the state of its links could not be read this time")
            continue
        up = sum(board.links)
        found.put("link_up", up if board.links else None)
        found.put("link_total", len(board.links) or None)
        sisters = [other.links or () for other in told if other.model == board.model and other is not board]
        longest = max(map(len, sisters), default=0)
        counts = {sum(links) for links in sisters}
        agreed = min(counts) if len(counts) == 1 and len(sisters) >= 2 else 0
        expected = max(agreed, before.get(board.serial, 0))
        if 0 < len(board.links) < longest:
            found.doubt(f"{len(board.links)} of its links are told of, and {longest} of its sisters'")
        elif up < expected:
            found.fault("LINK-DOWN", Severity.MAJOR, f"{up} links are up, {expected} should be")
        before[board.serial] = max(up, before.get(board.serial, 0))
