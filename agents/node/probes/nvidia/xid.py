"""Xids of GPUs and SXids of NVSwitches in the kernel log: what the driver only logs.

Codes: `XID-79`; of the NVLink 5 Xids 144 to 150 those that the driver itself calls non-fatal are `XID-149-NONFATAL`; Xid 154 tells
a recovery action, which is part of the code (`XID-154-RESET`). An Xid of no GPU that is known is the node's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from agents.node.probes.findings import coalesced
from agents.node.probes.inventory import pci_address
from agents.node.probes.machine import KernelLine
from agents.node.probes.reading import Assertion, Fault, Severity

_XID = re.compile(r"NVRM: Xid \((?:PCI:)?(?P<place>[0-9a-fA-F:.]+)\): (?P<number>\d{1,9})(?:,\s*(?P<text>.*))?")
_SXID = re.compile(
    r"SXid \((?:PCI:)?(?P<place>[0-9a-fA-F:.]+)\): (?P<number>\d{1,9}), (?P<word>Fatal|Non-fatal)\b(?P<text>.*)"
)
_BUS = re.compile(r"NVRM:\s+GPU (?P<place>[0-9a-fA-F:.]+): GPU has fallen off the bus")
_RECOVERY = re.compile(r"recovery action changed from .* to 0x[0-9a-f]+ \((?P<action>[^)]*)\)")
_NVLINK5 = range(144, 151)
_ACTIONS = {
    "none": "XID-154-NONE",
    "gpu reset required": "XID-154-RESET",
    "node reboot required": "XID-154-REBOOT",
    "drain p2p": "XID-154-DRAIN-P2P",
    "drain and reset": "XID-154-DRAIN-RESET",
}


def faults(lines: Iterable[KernelLine], places: Mapping[str, int]) -> tuple[Fault, ...]:
    """The Xids in the log, one for each code and entity. `places`: index by PCI address."""
    return coalesced(fault for line in lines if (fault := _fault(line, places)) is not None)


def _fault(line: KernelLine, places: Mapping[str, int]) -> Fault | None:
    if found := _XID.search(line.text):
        code, severity = _xid(int(found["number"]), found["text"] or "")
    elif found := _BUS.search(line.text):
        code, severity = "XID-79", Severity.UNSTATED
    elif found := _SXID.search(line.text):
        severity = Severity.CRITICAL if found["word"] == "Fatal" else Severity.MINOR
        return Fault(
            "node", f"SXID-{found['number']}", severity, Assertion.ONCE, line.sequence, line.at_ns, line.text[:400]
        )
    else:
        return None
    index = places.get(_address(found["place"]))
    entity = "node" if index is None else f"accelerator/{index}"
    return Fault(entity, code, severity, Assertion.ONCE, line.sequence, line.at_ns, line.text[:400])


def _xid(number: int, text: str) -> tuple[str, Severity]:
    if number in _NVLINK5 and "Nonfatal" in text:
        return f"XID-{number}-NONFATAL", Severity.MINOR
    if number == 154 and (told := _RECOVERY.search(text)):
        return _ACTIONS.get(told["action"].lower(), "XID-154-OTHER"), Severity.UNSTATED
    return f"XID-{number}", Severity.UNSTATED


def _address(place: str) -> str:
    return pci_address(place if "." in place else f"{place}.0") or place
