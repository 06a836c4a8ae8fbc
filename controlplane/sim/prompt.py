"""The part of soft state that is the same for every controller that keeps up: no lag, no slow append, an empty inbox."""

from __future__ import annotations

import numpy as np

from controlplane.core.health.distrust import Vitals
from controlplane.core.recovery.restore_point import Copies

KEEPS_UP = Vitals()


class PromptController:
    """Base of closed forms behind `core.softstate.SoftState`. `listens_since_ns`: when it began to listen, Unix ns."""

    def __init__(self, listens_since_ns: int) -> None:
        self._listens_since_ns = listens_since_ns

    def trusted_since_ns(self) -> int:
        """Silence counts from when it began to listen."""
        return self._listens_since_ns

    def excused_ns(self, since_ns: np.ndarray) -> np.ndarray:
        """It was never late."""
        return np.zeros_like(since_ns)

    def copies(self, job_uid: str) -> Copies:
        """Nobody holds copies; a world that keeps some says so."""
        return Copies.none()

    def vitals(self) -> Vitals:
        """Nothing is wrong with it."""
        return KEEPS_UP
