"""States of a card and its driver, as cnmon and CNDev tell them, with the codes that we give them."""

from __future__ import annotations

from agents.node.probes.findings import Findings
from agents.node.probes.reading import Severity

ESSENTIAL = frozenset({"temperature_celsius"})
_DEVICE = {"good": True, "in problem": False}
_DRIVER = (
    "early inited",
    "bring up",
    "booting",
    "lateinit",
    "running",
    "boot error",
    "reset",
    "reset error",
    "unknown",
)
"""In the order of CNDev's numbers."""


def set_device(found: Findings, word: str | None) -> None:
    """The card's own health."""
    good = found.state("device health", word, _DEVICE)
    if good is None:
        found.doubt("it does not tell its health")
    elif not good:
        found.fault("VENDOR-UNHEALTHY", Severity.CRITICAL, "the driver calls the card In problem")


def set_driver(found: Findings, word: str | None) -> None:
    """The driver's state; only a running one can be worked with."""
    state = " ".join((word or "").lower().split())
    if state in ("boot error", "reset error"):
        found.fault("CNDEV-DRIVER", Severity.CRITICAL, f"the driver's state is {state}")
    elif state != "running":
        found.doubt(f"driver state {state[:40]!r} is not running")


def driver_word(number: int) -> str:
    """CNDev's number of a driver state as cnmon's word."""
    return _DRIVER[number] if 0 <= number < len(_DRIVER) else str(number)
