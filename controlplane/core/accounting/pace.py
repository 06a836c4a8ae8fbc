"""How fast a job goes, by its own checkpoints: step time, stall of a save, and time lost by being slower than its own best."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

from controlplane.core.units import NS_PER_S

STALLS = 8
"""Stalls that are remembered; their median counts."""
WINDOW_NS = 60 * NS_PER_S
"""A shorter stretch says nothing about the pace: single steps differ."""
TOLERANCE = 1.05
"""Slower than the best by less than this is noise."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Measured from one committed checkpoint to a later one of the same generation. `step_ns` (0: not measured): the newest
    step time; `best_ns`: the least over a window; the window began at `step` (reached at `since_ns`) and held `stalled_ns`
    of saves."""

    generation: int = 0
    step: int = 0
    since_ns: int = 0
    stalled_ns: int = 0
    step_ns: int = 0
    best_ns: int = 0
    stalls_ns: tuple[int, ...] = ()

    @property
    def stall_ns(self) -> int:
        """The usual stall of a save; 0 before one was measured."""
        return int(statistics.median(self.stalls_ns)) if self.stalls_ns else 0


def saved(pace: Pace, generation: int, step: int, reached_ns: int, stall_ns: int) -> tuple[Pace, int]:
    """The pace after one more checkpoint, and how long the job was slower than its best since the window began (ns).

    Args:
        pace: until now.
        generation: that wrote the checkpoint.
        step: of the checkpoint.
        reached_ns: when the step was made; the save's stall comes after it.
        stall_ns: the stall of this save.
    """
    stalls = (*pace.stalls_ns, stall_ns)[-STALLS:]
    fresh = replace(pace, generation=generation, step=step, since_ns=reached_ns, stalled_ns=stall_ns, stalls_ns=stalls)
    steps = step - pace.step
    worked_ns = reached_ns - pace.since_ns - pace.stalled_ns
    if pace.generation != generation or steps <= 0 or worked_ns <= 0:
        return fresh, 0
    step_ns = worked_ns // steps
    if worked_ns < WINDOW_NS:
        return replace(pace, stalled_ns=pace.stalled_ns + stall_ns, step_ns=step_ns, stalls_ns=stalls), 0
    best_ns = min(pace.best_ns or step_ns, step_ns)
    lost_ns = worked_ns - steps * best_ns
    slower = worked_ns > TOLERANCE * steps * best_ns
    return replace(fresh, step_ns=step_ns, best_ns=best_ns), lost_ns if slower else 0
