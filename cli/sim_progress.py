"""How far a sweep is: a bar on a terminal, a line every half minute elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from cli import render

if TYPE_CHECKING:
    from controlplane.sim.swarm.results import SeedResult, Total

EVERY_S = 30.0


class SweepProgress:
    """Tells of seeds as they end. `limit_s` 0: only the number of seeds ends the sweep."""

    def __init__(self, seeds: int, limit_s: float) -> None:
        self._seeds = seeds
        self._limit_s = limit_s
        self._begun_s = self._shown_s = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._open = False

    def show(self, result: SeedResult, total: Total) -> None:
        """One more seed has ended; a violation gets a line of its own."""
        if not result.clean:
            self.close()
            render.note(f"seed {result.seed} violates {result.text.splitlines()[0]}")
        now_s = time.monotonic()
        if self._terminal:
            sys.stderr.write(f"\r\x1b[2K{self._line(now_s, total)}")
            sys.stderr.flush()
            self._open = True
        elif now_s - self._shown_s >= EVERY_S:
            self._shown_s = now_s
            render.note(self._line(now_s, total))

    def _line(self, now_s: float, total: Total) -> str:
        elapsed_s = now_s - self._begun_s
        by_seeds = total.seeds / self._seeds
        by_time = elapsed_s / self._limit_s if self._limit_s else 0.0
        done = min(1.0, max(by_seeds, by_time))
        filled = round(render.BAR_WIDTH * done)
        bar = "[" + "#" * filled + "." * (render.BAR_WIDTH - filled) + "]"
        return (
            f"{bar} {done:4.0%}  {total.seeds:,} seeds  {total.years:.1f} years  {len(total.violations)} violations  "
            f"{render.seconds(elapsed_s)}"
        )

    def close(self) -> None:
        """Ends the line of the bar."""
        if self._open:
            render.note("")
            self._open = False
