"""EID messages, which MetaX's kernel driver logs:

METAX.B10200.ATU.ERROR EID (0000:0e:00.0): 0x2101, atu 0x0 pde_base_addr 0x50016c0000
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from agents.node.probes.findings import coalesced
from agents.node.probes.inventory import pci_address
from agents.node.probes.machine import KernelLine, Machine, Unreadable
from agents.node.probes.reading import Assertion, Fault, Reading, Severity, Unread

_MESSAGE = re.compile(
    r"\b(?:METAX|MXCD|MXGVM)\S*?\.?(EMERG|ALERT|CRIT|ERROR|WARN|INFO|DEBUG)\s+EID\s*"
    r"\(\s*([0-9a-fA-Fx:.]+)\s*\)\s*:\s*(0x[0-9a-fA-F]{1,8})\b[,\s]*(.*)"
)
_SEVERITIES: Mapping[str, Severity] = {
    "EMERG": Severity.CRITICAL,
    "ALERT": Severity.CRITICAL,
    "CRIT": Severity.CRITICAL,
    "ERROR": Severity.MAJOR,
    "WARN": Severity.MINOR,
    "INFO": Severity.HINT,
    "DEBUG": Severity.HINT,
}


def with_messages(reading: Reading, machine: Machine, places: Mapping[str, int]) -> Reading:
    """The reading with the messages of the kernel log as one-off faults; several lines of one code are one event."""
    try:
        lines = machine.kernel_log()
    except Unreadable as error:
        return replace(
            reading, unread=(*reading.unread, Unread("kernel log", f"EIDs are not seen: {error}", events_only=True))
        )
    found = [fault for line in lines if (fault := parse(line, places)) is not None]
    return replace(reading, faults=(*reading.faults, *coalesced(found)))


def parse(line: KernelLine, places: Mapping[str, int]) -> Fault | None:
    """The fault that a line tells of; None when it is no EID message. Of a device that nobody listed the node is told."""
    found = _MESSAGE.search(line.text)
    if found is None:
        return None
    level, place, code, text = found.groups()
    index = places.get(pci_address(place) or "")
    entity = "node" if index is None else f"accelerator/{index}"
    message = text.strip()[:400] if index is not None else line.text[:400]
    return Fault(entity, f"EID-{code.upper()}", _SEVERITIES[level], Assertion.ONCE, line.sequence, line.at_ns, message)
