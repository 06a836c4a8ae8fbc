"""A device that fails when it is told to, and is nobody's: what detection makes of it shows how fast detection is."""

from __future__ import annotations

from agents.node.probes.reading import Assertion, Fault, Reading, Severity

VENDOR = "canary"
CODE = "CANARY"
MAX_WAITING = 64
"""Failures that wait for the next look; more would be a controller that has lost count."""


class CanaryProbe:
    """Read in the agent's own process at the pace of the simulated accelerators. It is listed nowhere, so that no job gets it."""

    def __init__(self) -> None:
        self._failures: list[tuple[int, int]] = []

    def fail(self, number: int, now_ns: int) -> None:
        """Fail now (Unix ns). `number` is the controller's name for it."""
        self._failures = [*self._failures, (number, now_ns)][-MAX_WAITING:]

    def read(self) -> Reading | None:
        """What happened since the last look; None: nothing, which is how it mostly is."""
        failures, self._failures = self._failures, []
        if not failures:
            return None
        faults = (
            Fault("node", CODE, Severity.HINT, Assertion.ONCE, number, raised_ns, "raised on purpose")
            for number, raised_ns in failures
        )
        return Reading(VENDOR, (), tuple(faults))
