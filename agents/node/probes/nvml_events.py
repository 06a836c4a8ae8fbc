"""Xids by the events of NVML, and of libraries that copy it: for agents that may not read the kernel log.

The library tells fewer than the driver logs: those that it calls critical, with their number and without their text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agents.node.probes.findings import coalesced
from agents.node.probes.inventory import pci_address
from agents.node.probes.machine import Memory
from agents.node.probes.nvml import Nvml
from agents.node.probes.reading import Assertion, Fault

MAX_EVENTS = 256
"""Events that are taken at one reading; more wait in the library."""


def xids(library: Nvml, memory: Memory, places: Mapping[str, int], now_ns: int) -> tuple[Fault, ...] | None:
    """One-off faults since the last call, one for each code and device; None when the library tells no events.

    `places`: index by PCI address. The first call only begins to listen.
    """
    if "events" not in memory:
        memory["events"] = _listening(library)
    events = memory["events"]
    if events is None:
        return None
    found = []
    timeout = library.constant("ERROR_TIMEOUT")
    for _ in range(MAX_EVENTS):
        try:
            event = library.call("EventSetWait_v2", events, 0)
        except library.error as error:
            if getattr(error, "value", -1) != timeout:
                memory.pop("events")  # of a device that is lost, for one: listen anew
            break
        found.append(_fault(library, event, places, now_ns))
    return coalesced(found)


def _listening(library: Nvml) -> Any:
    """A set of events that every device is in; None when there is none."""
    kind = library.symbol("EventTypeXidCriticalError")
    if kind is None:
        return None
    try:
        events = library.call("EventSetCreate")
        for _, handle, _ in library.handles():
            if handle is not None:
                library.call("DeviceRegisterEvents", handle, kind, events)
    except library.error:
        return None
    return events


def _fault(library: Nvml, event: Any, places: Mapping[str, int], now_ns: int) -> Fault:
    try:
        address = pci_address(library.word(library.call("DeviceGetPciInfo", event.device).busId))
    except library.error:
        address = None
    index = places.get(address or "")
    entity = "node" if index is None else f"accelerator/{index}"
    text = f"Xid {event.eventData}, as the library tells it"
    return Fault(entity, f"XID-{event.eventData}", assertion=Assertion.ONCE, raised_ns=now_ns, message=text)
