"""Where a falling line meets a target: the next duration to try, and the answer. Every try is a simulation, so there are few."""

from __future__ import annotations

from dataclasses import dataclass, field

LEAST_S = 4.0
"""The first try is no shorter, so that it shows a difference."""
LONGEST_S = 3_600.0
"""Longer is not looked for."""
CLOSE_POINTS = 0.002
"""A try as near to the target as this is the answer."""


@dataclass(slots=True)
class Bracket:
    """Effective time (percent) falls with the duration of a phase, nearly in a line. `target`: percent to be reached;
    `expected_s`: the duration that is assumed."""

    target: float
    expected_s: float
    _tried: dict[float, float] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Whether another try would tell no more."""
        close = any(abs(percent - self.target) < CLOSE_POINTS for percent in self._tried.values())
        return close or (bool(self._tried) and self.next_s() in self._tried)

    def next_s(self) -> float:
        """The duration to try next: none, then twice what is expected, then where a line through the nearest tries on both
        sides meets the target; the longest one is doubled while the target is still reached."""
        if not self._tried:
            return 0.0
        low, high = self._reached(), self._missed()
        if low is None:
            return 0.0
        if high is None:
            return min(LONGEST_S, max(2.0 * low, 2.0 * self.expected_s, LEAST_S))
        return self._between(low, high)

    def note(self, duration_s: float, percent: float) -> None:
        """A try has been simulated."""
        self._tried[duration_s] = percent

    def even_s(self) -> float | None:
        """The longest duration that still reaches the target, as far as the tries tell; None: not even none does."""
        low, high = self._reached(), self._missed()
        if low is None:
            return None
        return low if high is None else self._between(low, high)

    def _reached(self) -> float | None:
        return max((at_s for at_s, percent in self._tried.items() if percent >= self.target), default=None)

    def _missed(self) -> float | None:
        return min((at_s for at_s, percent in self._tried.items() if percent < self.target), default=None)

    def _between(self, low: float, high: float) -> float:
        above, below = self._tried[low] - self.target, self.target - self._tried[high]
        return low + (high - low) * above / (above + below)
