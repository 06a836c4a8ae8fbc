"""When the ranks of a generation save: at one step that is common to all, also when somebody asks for a save now.

Ranks are up to a step apart, an order reaches them at different moments, and storage is slow for one of them and not for another.
A checkpoint of which one rank's part is missing is none, so that what a rank knows alone decides nothing: a tiny reduction over all
ranks does (as Megatron-LM does for its exit signals). Long steps make it after every one; short ones about four times a second,
and wherever a regular save is due.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

LOOK_EVERY_S = 0.25
"""Ranks look this often whether somebody asks for a save, where steps are shorter."""
MOST_GAP = 1_000
"""Steps between two looks at most."""

Agree = Callable[[list[int]], list[int]]
"""The maximum of each number over all ranks. Called by all of them at the same steps."""


@dataclass(slots=True)
class SaveOrder:
    """What the node agent has asked this process for. Written by the link's thread, read by the workload's; `until`: monotonic
    seconds, after which nobody waits for the save. `heeded`: the newest generation whose workload asks `save_due`."""

    generation: int = 0
    until: float = 0.0
    heeded: int = 0

    def stands(self, generation: int, now: float) -> bool:
        """Whether this generation is asked to save now."""
        return self.generation == generation and now < self.until


class SaveSchedule:
    """Decides for one generation, with the same outcome on all ranks.

    Args:
        every: steps between regular saves; 0: none, and then none on request either.
        order: what this process was asked for.
        agree: the reduction.
        late: called with a step at which a regular save was due while this rank still wrote the one before, once per such save.
    """

    def __init__(
        self, generation: int, every: int, order: SaveOrder, agree: Agree, late: Callable[[int], None]
    ) -> None:
        self._generation = generation
        self._every = every
        self._order = order
        self._agree = agree
        self._late = late
        self._next_look = 0
        self._pending = False
        self._told_late = False
        self._looked_at: tuple[int, float] | None = None
        order.heeded = max(order.heeded, generation)

    def due(self, step: int, *, busy: bool) -> bool:
        """Whether all ranks save at this step boundary. `busy`: this rank still writes an earlier save; then all wait for it,
        which holds no step up, and save as soon as nobody is busy."""
        if not self._every:
            return False
        self._told_late &= busy
        regular = step % self._every == 0
        if regular and busy and not self._told_late:
            self._told_late = True
            self._late(step)
        if not (regular or self._pending or step >= self._next_look):
            return False
        now = time.monotonic()
        asked = self._order.stands(self._generation, now)
        someone_asks, someone_busy, gap = self._agree([int(asked), int(busy), self._gap(step, now)])
        self._next_look = step + gap
        self._pending |= regular or bool(someone_asks)
        if not self._pending or someone_busy:
            return False
        self._pending = False
        self._order.generation = 0
        return True

    def _gap(self, step: int, now: float) -> int:
        """Steps until the next look, as this rank would have it; the largest of all ranks is taken."""
        known, self._looked_at = self._looked_at, (step, now)
        if known is None or step <= known[0] or now <= known[1]:
            return 1
        return max(1, min(MOST_GAP, int(LOOK_EVERY_S * (step - known[0]) / (now - known[1]))))
