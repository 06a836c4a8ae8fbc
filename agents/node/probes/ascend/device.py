"""One Ascend chip as npu-smi and DCMI fill it in, and what follows: one judgement for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agents.node.probes.findings import Findings
from agents.node.probes.reading import Severity, Unread

ESSENTIAL = frozenset({"temperature_celsius"})
STATES: Mapping[str, Severity] = {
    "ok": Severity.UNSTATED,
    "warning": Severity.MINOR,
    "alarm": Severity.MAJOR,
    "critical": Severity.CRITICAL,
}
"""npu-smi's words for DCMI's health 0 to 3. It is the worst severity of all codes that stand."""
UNHEALTHY = "VENDOR-UNHEALTHY"
WARNING = "VENDOR-WARNING"


def _findings() -> Findings:
    return Findings("npu-smi", ESSENTIAL)


@dataclass(slots=True)
class Npu:
    """One chip (one die where a card has two): `card` and `chip` are the numbers that tools want, `physical` the one of
    hccn_tool, where it is told."""

    card: int
    chip: int
    address: str
    model: str
    serial: str = ""
    physical: int | None = None
    findings: Findings = field(default_factory=_findings)


@dataclass(slots=True)
class Listing:
    """All chips that one source listed. `complete`: the list was read to its end. `processes`: npu-smi's table of processes,
    which follows the chips, was reached."""

    npus: list[Npu] = field(default_factory=list)
    complete: bool = True
    unread: list[Unread] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    processes: bool = False


def set_state(found: Findings, word: str) -> None:
    """The chip's health in npu-smi's word. A bad one that no code explains is a fault by itself."""
    severity = STATES.get(word.strip().lower())
    if severity is None:
        found.doubt(f"health {word[:40]!r} is no state that is known")
    elif severity is Severity.MINOR:
        found.fault(WARNING, severity, "npu-smi calls the chip's health Warning")
    elif severity is not Severity.UNSTATED:
        found.fault(UNHEALTHY, severity, f"npu-smi calls the chip's health {word.strip()}")


def set_codes(found: Findings, codes: Sequence[str], text: str) -> None:
    """The codes that stand. No one of them is worse than the chip's state; with the state OK they are hints."""
    states = [fault for fault in found.faults if fault.code in (UNHEALTHY, WARNING)]
    worst = states[0].severity if states else Severity.HINT
    if codes:
        found.faults = [fault for fault in found.faults if fault not in states]
    for code in codes:
        found.fault(code, worst, text if len(codes) == 1 else "")
