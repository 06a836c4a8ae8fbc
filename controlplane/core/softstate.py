"""What is never journalled: beats, steps, our own lag. A port, so that production columns and closed forms both fit."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class SoftState(Protocol):
    """Answers about the recent past, all times in Unix nanoseconds."""

    def last_beat_ns(self, size: int) -> np.ndarray:
        """(size,) int64: last beat of each node by number; 0 when it has sent none to this process."""
        ...

    def trusted_since_ns(self) -> int:
        """Silence is only counted from here on: moved forward when this controller itself was late."""
        ...

    def progress(self, job_uid: str) -> tuple[int, int]:
        """(newest step that any rank has finished, when we learned of it); (0, 0) when none."""
        ...

    def node_progress_ns(self, job_uid: str, node: int) -> int:
        """When a rank on this node last told of a new step; 0 when never."""
        ...
