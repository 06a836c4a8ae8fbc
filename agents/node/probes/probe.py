"""What every probe can do."""

from __future__ import annotations

from typing import Protocol

from phalanx.v1 import agent_pb2


class Probe(Protocol):
    """A vendor adapter. A reading that fails is reported as UNKNOWN by the probe itself, never as healthy."""

    @property
    def identity(self) -> str:
        """Constant name of the probe, for logs."""

    def read(self) -> list[agent_pb2.AcceleratorStatus]:
        """State of every accelerator now. Called about once a second on the event loop: it must not block."""
