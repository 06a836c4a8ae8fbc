"""Faults that a driver only logs: what its lines look like, and which code each gets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from agents.node.probes.boards import places
from agents.node.probes.findings import coalesced
from agents.node.probes.inventory import pci_address
from agents.node.probes.machine import KernelLine, Machine, Unreadable
from agents.node.probes.reading import Assertion, Fault, Reading, Severity, Unread


@dataclass(frozen=True, slots=True)
class Word:
    """A kind of line: `pattern` may have a group `place` with the PCI address of the device; without one the node is meant."""

    pattern: re.Pattern[str]
    code: str
    severity: Severity = Severity.UNSTATED


def with_log(reading: Reading, machine: Machine, words: Sequence[Word], what: str) -> Reading:
    """The reading with the one-off faults of the kernel log; the first word that fits a line counts. When the log cannot be
    read, an Unread says that `what` are not seen."""
    try:
        lines = machine.kernel_log()
    except Unreadable as error:
        return replace(
            reading, unread=(*reading.unread, Unread("kernel log", f"{what} are not seen: {error}", events_only=True))
        )
    return replace(reading, faults=(*reading.faults, *coalesced(_faults(lines, words, places(reading)))))


def _faults(lines: Iterable[KernelLine], words: Sequence[Word], at: Mapping[str, int]) -> Iterable[Fault]:
    for line in lines:
        for word in words:
            found = word.pattern.search(line.text)
            if found is None:
                continue
            place = found.groupdict().get("place")
            index = at.get(pci_address(place) or place) if place else None
            entity = "node" if index is None else f"accelerator/{index}"
            yield Fault(entity, word.code, word.severity, Assertion.ONCE, line.sequence, line.at_ns, line.text[:400])
            break
