"""What one device's sources said, collected while they are read, and what follows for its health.

The rule is the same for every vendor: a device is HEALTHY only when what decides that was read. A doubt makes it UNKNOWN, a
fault that stands makes it DEGRADED or FAILED whatever else could not be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agents.node.probes.quantity import UNSUPPORTED_WORDS, GarbledError, quantity
from agents.node.probes.reading import Assertion, Device, Fault, Health, Metric, Severity, Unread


@dataclass(slots=True)
class Findings:
    """One device. `source`: the tool or file, for people. `essential`: metrics without which it cannot be called healthy.
    `unsupported`: this vendor's words for "the device does not have it"."""

    source: str
    essential: frozenset[str] = frozenset()
    unsupported: frozenset[str] = UNSUPPORTED_WORDS
    metrics: dict[str, Metric] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    garbled: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def measure(self, name: str, *texts: str | None, unit: str = "") -> float | None:
        """A metric out of what was printed, the sum where several texts are parts of it; None where one is absent. The value,
        or None when the device has none or when it is garbled."""
        try:
            parts = [
                part
                for text in texts
                if text is not None
                for part in [quantity(text, unit, unsupported=self.unsupported)]
            ]
        except GarbledError as error:
            self.garbled.append(f"{name}: {error}")
            return None
        values = [part.value for part in parts if part.value is not None]
        self.metrics[name] = Metric(sum(values)) if values else Metric(None, supported=False)
        return self.metrics[name].value

    def put(self, name: str, value: float | None) -> float | None:
        """A metric that a binding gives as a number; None: the device does not have it."""
        self.metrics[name] = Metric(None, supported=False) if value is None else Metric(float(value))
        return value

    def state(self, name: str, text: str | None, words: Mapping[str, bool]) -> bool | None:
        """A state out of one of the words (in lower case) that a vendor prints for it; None when the device does not have it.
        Another word is a doubt: it may be the fault that nobody has seen yet."""
        word = (text or "").strip().lower()
        if word in words:
            return words[word]
        if word not in self.unsupported:
            self.doubts.append(f"{name}: {word[:80]!r} is no state that is known")
        return None

    def doubt(self, reason: str) -> None:
        """Something that decides about health could not be read."""
        self.doubts.append(reason)

    def fault(self, code: str, severity: Severity, message: str = "") -> None:
        """A fault that stands; of one that is told twice the worse counts."""
        known = next((fault for fault in self.faults if fault.code == code), None)
        if known is None or list(Severity).index(severity) < list(Severity).index(known.severity):
            self.faults = [fault for fault in self.faults if fault is not known]
            self.faults.append(Fault("", code, severity, message=message))

    def grown(self, code: str, severity: Severity, count: float | None, before: float | None, message: str) -> None:
        """A counter of errors that has grown since it was read before is one event; the count is its sequence."""
        if count is not None and before is not None and count > before:
            self.faults.append(Fault("", code, severity, Assertion.ONCE, sequence=int(count), message=message))

    def narrow_pcie(self) -> None:
        """`PCIE-WIDTH` when fewer lanes are in use than the device could use."""
        width, most = self.value("pcie_width"), self.value("pcie_width_max")
        if width is not None and most is not None and 0 < width < most:
            self.fault("PCIE-WIDTH", Severity.MINOR, f"{width:g} of {most:g} PCIe lanes are in use")

    def value(self, name: str) -> float | None:
        """A metric's value; None when there is none."""
        metric = self.metrics.get(name)
        return None if metric is None else metric.value

    def missing(self) -> list[str]:
        """Essential metrics that were not read."""
        return sorted(name for name in self.essential if self.value(name) is None)

    def health(self) -> Health:
        """What all of it says of the device."""
        severities = {fault.severity for fault in self.faults if fault.assertion is Assertion.OCCURRED}
        if Severity.CRITICAL in severities:
            return Health.FAILED
        if self.doubts or self.missing():
            return Health.UNKNOWN
        return Health.DEGRADED if severities - {Severity.HINT} else Health.HEALTHY

    def device(self, index: int, serial: str, address: str, model: str) -> Device:
        """The device with its health and telemetry."""
        return Device(index, serial, address, model, self.health(), dict(self.metrics))

    def faults_of(self, index: int) -> tuple[Fault, ...]:
        """The faults, on the accelerator at this position."""
        return tuple(
            Fault(f"accelerator/{index}", f.code, f.severity, f.assertion, f.sequence, f.raised_ns, f.message)
            for f in self.faults
        )

    def unread(self, index: int) -> tuple[Unread, ...]:
        """One Unread of the source when anything of this device could not be read."""
        reasons = [*self.doubts, *(f"{name}: is missing" for name in self.missing()), *self.garbled]
        return (Unread(self.source, "; ".join(reasons)[:500], (index,)),) if reasons else ()


def coalesced(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """One-off faults of the same code on the same entity as one: a driver logs a single event in many lines. The newest counts."""
    kept: dict[tuple[str, str], Fault] = {}
    lines: dict[tuple[str, str], int] = {}
    for fault in faults:
        key = (fault.entity, fault.code)
        lines[key] = lines.get(key, 0) + 1
        kept[key] = fault
    return tuple(
        fault
        if lines[key] == 1
        else Fault(
            *key,
            fault.severity,
            fault.assertion,
            fault.sequence,
            fault.raised_ns,
            f"{fault.message} ({lines[key]} lines)",
        )
        for key, fault in kept.items()
    )
