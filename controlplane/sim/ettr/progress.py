"""Steps of a synchronous job in closed form: what is done at any time, and what outlives a failure."""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.core.units import seconds


@dataclass(frozen=True, slots=True)
class Saving:
    """How often state is kept where a failure does not reach it. `steps` between two saves, `stall_s` of each, `step_s`.

    Where a data-parallel replica holds the same state, every finished step is kept and nothing stalls: (1, 0).
    """

    step_s: float
    steps: int = 1
    stall_s: float = 0.0

    def __post_init__(self) -> None:
        if self.step_s <= 0 or self.steps < 1 or self.stall_s < 0:
            raise ValueError(f"{self}: step_s must be above 0, steps at least 1, stall_s not negative")


@dataclass(slots=True)
class Progress:
    """Work done by the whole gang. While it runs, a cycle of `steps` and one stall repeats from `since_ns` on."""

    saving: Saving
    kept: int = 0
    since_ns: int | None = None

    @property
    def running(self) -> bool:
        """Whether steps are being made."""
        return self.since_ns is not None

    def _cycle(self, now_ns: int) -> tuple[int, int]:
        """(whole cycles since the start, nanoseconds into the next one)."""
        if self.since_ns is None:
            return 0, 0
        return divmod(max(0, now_ns - self.since_ns), self._cycle_ns)

    @property
    def _cycle_ns(self) -> int:
        return self.saving.steps * seconds(self.saving.step_s) + seconds(self.saving.stall_s)

    def step(self, now_ns: int) -> tuple[int, int]:
        """(newest finished step, when it was finished in Unix ns; 0: before the present start)."""
        whole, left = self._cycle(now_ns)
        step_ns = seconds(self.saving.step_s)
        part = min(left // step_ns, self.saving.steps)
        if self.since_ns is None or not (whole or part):
            return self.kept, self.since_ns or 0
        reached = self.since_ns + whole * self._cycle_ns + part * step_ns
        if not part:
            reached -= seconds(self.saving.stall_s)
        return self.kept + whole * self.saving.steps + part, reached

    def saved(self, now_ns: int) -> int:
        """Newest step that outlives a failure at this time."""
        return self.kept + self._cycle(now_ns)[0] * self.saving.steps

    def start(self, now_ns: int) -> None:
        """The gang begins the step after the newest kept one."""
        self.since_ns = now_ns

    def halt(self, now_ns: int) -> int:
        """The gang stops; what was not saved is gone. Returns the steps that are lost with it."""
        done, _ = self.step(now_ns)
        self.kept = self.saved(now_ns)
        self.since_ns = None
        return done - self.kept

    def productive_s(self, now_ns: int) -> float:
        """Seconds of work that outlive a failure at this time."""
        return self.saved(now_ns) * self.saving.step_s


def whole_steps(interval_s: float, about_s: float) -> Saving:
    """Saves `interval_s` apart without stall, in steps as near to `about_s` as divide the interval."""
    steps = max(1, round(interval_s / about_s))
    return Saving(interval_s / steps, steps)
