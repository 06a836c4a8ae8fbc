"""What a probe says: one shape for all vendors. Plain values, made in a child process, so that a vendor's library may crash.

A reading is level-triggered truth: every fault that stands now is in it, every time. A fault that is missing from a reading
whose sources all answered has recovered; one whose source did not answer has not. Events that leave no state behind (a
one-off) come with the source's own sequence number, so that they are counted once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

UNITS: Mapping[str, str] = {
    "temperature_celsius": "degrees Celsius, the hottest sensor of the chip",
    "memory_temperature_celsius": "degrees Celsius",
    "power_watts": "W",
    "power_limit_watts": "W",
    "utilization_ratio": "0 to 1",
    "memory_used_bytes": "bytes of device memory",
    "memory_total_bytes": "bytes of device memory",
    "clock_hertz": "Hz of the compute clock",
    "throttled": "1 while clocks are held down, else 0",
    "ecc_corrected_total": "errors since the vendor's counter began",
    "ecc_uncorrected_total": "errors since the vendor's counter began",
    "retired_pages": "pages or rows taken out of use",
    "retired_pages_pending": "pages or rows that a reset would take out of use",
    "link_up": "links of the device (ports, lanes groups) that are up",
    "link_total": "links of the device",
    "link_errors_total": "CRC and replay errors over all links",
    "pcie_width": "lanes in use",
    "pcie_width_max": "lanes that the device could use",
    "pcie_replays_total": "PCIe replays",
    "processes": "processes that hold the device",
}
"""Telemetry that has a common name, with its unit. What only one vendor has keeps the vendor's prefix: `ascend_hbm_...`."""


class Health(StrEnum):
    """What a probe says of a device. UNKNOWN: it could not be read; never HEALTHY by default."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Assertion(StrEnum):
    """What a fault's source says of it: it stands, it is over, or it was one event without a state."""

    OCCURRED = "occurred"
    RECOVERED = "recovered"
    ONCE = "once"


class Severity(StrEnum):
    """How bad the vendor calls it; "" when it does not say (`core.vocabulary.Severity` has the same words)."""

    CRITICAL = "critical"
    MAJOR = "major"
    MINOR = "minor"
    HINT = "hint"
    UNSTATED = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured value in the unit of its name. `supported` false: the device or its driver does not have it (the vendor said
    N/A, -1 or a sentinel); the value is then None. A value that could not be read this time is left out instead."""

    value: float | None
    supported: bool = True


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator as its vendor names it.

    `serial`: serial number or UUID, the identity; never an index. `index`: position on the node, for people and for the
    visible-devices variable. `pci_address`: `0000:c1:00.0`, lower case.
    """

    index: int
    serial: str
    pci_address: str
    model: str
    health: Health
    metrics: Mapping[str, Metric] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `entity`: `node`, `accelerator/<index>`, or `port/<index>`. `raised_ns`: Unix ns of the source, 0 when it does
    not say. `sequence`: the source's own number of the event, 0 when it has none."""

    entity: str
    code: str
    severity: Severity = Severity.UNSTATED
    assertion: Assertion = Assertion.OCCURRED
    sequence: int = 0
    raised_ns: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Unread:
    """A source that gave nothing, why, and the devices that it speaks for (empty: all of the vendor's).

    `events_only`: it tells of one-off events alone, such as a kernel log. What stands does not depend on it, so no device
    becomes UNKNOWN by its silence and no fault is kept for its sake; it is a blind spot of the node that people should see.
    """

    source: str
    reason: str
    accelerators: tuple[int, ...] = ()
    events_only: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that one vendor's probe sees now. `versions`: driver, firmware and tool, for people and for skew checks."""

    vendor: str
    devices: tuple[Device, ...] = ()
    faults: tuple[Fault, ...] = ()
    unread: tuple[Unread, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
