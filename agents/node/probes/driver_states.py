"""States of NVIDIA's driver, and of drivers that copy it, with the codes that we give them: one judgement for all ways to read."""

from __future__ import annotations

from collections.abc import Mapping

from agents.node.probes.findings import Findings
from agents.node.probes.quantity import UNSUPPORTED_WORDS
from agents.node.probes.reading import Severity

UNSUPPORTED = UNSUPPORTED_WORDS | {"requested functionality has been deprecated"}
ESSENTIAL = frozenset({"temperature_celsius"})

RECOVERY: Mapping[str, tuple[str, Severity]] = {
    "reset": ("RECOVERY-RESET", Severity.CRITICAL),
    "reboot": ("RECOVERY-REBOOT", Severity.CRITICAL),
    "drain p2p": ("RECOVERY-DRAIN-P2P", Severity.MAJOR),
    "drain and reset": ("RECOVERY-DRAIN-RESET", Severity.MAJOR),
    "reset bus": ("RECOVERY-RESET", Severity.CRITICAL),
}
"""The driver's recovery action, as nvidia-smi words it, and the code that we give it."""

STATES: Mapping[str, tuple[str, Severity, str]] = {
    "row_remap_failure": ("ROW-REMAP-FAILED", Severity.CRITICAL, "a memory row could not be remapped"),
    "sram_threshold_exceeded": ("SRAM-THRESHOLD", Severity.CRITICAL, "uncorrectable SRAM errors over NVIDIA's limit"),
    "unrepairable_memory": ("UNREPAIRABLE-MEMORY", Severity.CRITICAL, "memory that cannot be repaired"),
    "pages_pending": ("PAGES-PENDING", Severity.HINT, "memory rows or pages wait for a reset to be taken out of use"),
    "repair_pending": ("REPAIR-PENDING", Severity.HINT, "a memory channel or TPC waits for a reset to be repaired"),
    "hw_thermal_slowdown": ("THERMAL", Severity.MAJOR, "the hardware slows clocks down because of heat"),
    "sw_thermal_slowdown": ("THERMAL", Severity.MINOR, "the driver lowers clocks because of heat"),
    "hw_power_brake": ("POWER-BRAKE", Severity.MAJOR, "the power supply brakes the clocks"),
}
"""States of the driver and the codes that we give them."""


def findings(source: str) -> Findings:
    """Empty findings of a GPU."""
    return Findings(source, ESSENTIAL, UNSUPPORTED)


def set_state(found: Findings, name: str, stands: bool | None) -> None:
    """Write down a state of `STATES`; None: the device does not have it."""
    if stands:
        found.fault(*STATES[name])


def set_recovery(found: Findings, action: str | None) -> None:
    """Write down the recovery action in nvidia-smi's words."""
    word = (action or "").strip().lower()
    if word in RECOVERY:
        code, severity = RECOVERY[word]
        found.fault(code, severity, f"the driver asks for: {word}")
    elif word != "none" and word not in found.unsupported:
        found.doubt(f"gpu_recovery_action: {word[:80]!r} is no action that is known")


def set_throttling(found: Findings, reasons: Mapping[str, bool | None]) -> None:
    """Clocks that are held down for the sake of the hardware; a power cap is ordinary work and does not count."""
    told = [state for state in reasons.values() if state is not None]
    found.put("throttled", float(any(told)) if told else None)
    for name in ("hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake"):
        set_state(found, name, reasons.get(name))


def set_fabric(found: Findings, state: str | None, status: str | None, summary: str | None) -> None:
    """The NVLink fabric as the fabric manager has set it up; a GPU outside it cannot compute with others."""
    if not found.state("fabric state", state, {"completed": True, "in progress": False, "not started": False}):
        if state is not None and state.strip().lower() in ("in progress", "not started"):
            found.fault("FABRIC-NOT-READY", Severity.MAJOR, f"the NVLink fabric is {state.strip().lower()}")
        return
    if (status or "").strip().lower() not in ("success", "n/a", ""):
        found.fault("FABRIC-ERROR", Severity.MAJOR, f"the NVLink fabric reports {(status or '').strip()}")
    healthy = found.state("fabric health", summary, {"healthy": True, "unhealthy": False, "limited capacity": False})
    if healthy is False:
        found.fault("FABRIC-ERROR", Severity.MAJOR, f"the NVLink fabric is {(summary or '').strip().lower()}")
