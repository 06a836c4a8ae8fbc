"""One Ascend chip as npu-smi and DCMI fill it in, and what follows: one judgement for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agents.node.probes.boards import Board
from agents.node.probes.findings import Findings
from agents.node.probes.reading import Severity

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


@dataclass(slots=True)
class Npu(Board):
    """One chip (one die where a card has two): `card` and `chip` are the numbers that tools want, `physical` the one of
    hccn_tool, where it is told."""

    card: int = 0
    chip: int = 0
    physical: int | None = None


def npu(source: str, card: int, chip: int, address: str, model: str) -> Npu:
    """A chip of which nothing else is known yet."""
    return Npu(address, "", model, Findings(source, ESSENTIAL), card=card, chip=chip)


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
