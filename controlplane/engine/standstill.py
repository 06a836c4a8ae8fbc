"""What is learned of a job's steps, and what agents answer when it makes none: soft state, lost with the controller."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from controlplane.core.health.standstill import Stacks, merged
from controlplane.core.softstate import StepTimes

BLOCK = 256
"""Tellings of newer steps whose times are remembered one by one; of older ones the longest of each so many is."""
BLOCKS = 4
"""Older blocks that count: a step with a checkpoint every thousand steps is among them."""
ASKED = 8
"""Orders whose answers are kept, and parts of answers for each: as many as a job has nodes, and not more than this."""
PARTS = 16_384


class StepPace:
    """How long a job's steps take, from the moments at which newer ones were told of. Not thread-safe."""

    def __init__(self) -> None:
        self._step = 0
        self._at_ns = 0
        self._gaps: list[int] = []
        self._each: list[int] = []
        self._older: list[int] = []
        self._count = 0
        self._times: StepTimes | None = None

    def told(self, step: int, at_ns: int) -> None:
        """The newest step of all ranks is now this one, reached at `at_ns`, Unix ns."""
        gap_ns, steps = at_ns - self._at_ns, step - self._step
        if self._at_ns and steps > 0 and gap_ns > 0:
            self._gaps.append(gap_ns)
            self._each.append(gap_ns // steps)
            self._count += steps
            self._times = None
            if len(self._gaps) >= 2 * BLOCK:
                self._older = [*self._older, max(self._gaps[:BLOCK])][-BLOCKS:]
                del self._gaps[:BLOCK], self._each[:BLOCK]
        if steps > 0 or not self._at_ns:
            self._step, self._at_ns = step, at_ns

    def begun_anew(self) -> None:
        """A generation starts: what passes until its first step is no step."""
        self._step = self._at_ns = 0

    def times(self) -> StepTimes:
        """What was learned."""
        if self._times is None and self._each:
            each = np.array(self._each, dtype=np.int64)
            median = int(np.median(each))
            spread = int(np.median(np.abs(each - median)))
            self._times = StepTimes(self._count, median, spread, max(*self._older, *self._gaps, 0))
        return self._times or StepTimes()


class StackAnswers:
    """Where ranks stand, by the effect that asked. Bounded: the newest orders, and so many answers of each. Not thread-safe."""

    def __init__(self) -> None:
        self._parts: OrderedDict[str, dict[str, Stacks]] = OrderedDict()
        self._merged: dict[str, Stacks] = {}

    def add(self, effect_id: str, node: str, stacks: Stacks) -> None:
        """A node has answered; a repeat replaces its first answer."""
        parts = self._parts.setdefault(effect_id, {})
        if len(parts) < PARTS or node in parts:
            parts[node] = stacks
            self._merged.pop(effect_id, None)
        while len(self._parts) > ASKED:
            oldest, _ = self._parts.popitem(last=False)
            self._merged.pop(oldest, None)

    def of(self, effect_id: str) -> Stacks:
        """All that has come so far."""
        parts = self._parts.get(effect_id)
        if parts is None:
            return Stacks.none()
        known = self._merged.get(effect_id)
        if known is None:
            known = self._merged[effect_id] = merged([*parts.values()])
        return known
