"""How far many runs are: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.progress
    from rich.progress import TaskID


class RunsProgress:
    """Shows the set of runs that is under way, on standard error."""

    def __init__(self) -> None:
        self._bars: rich.progress.Progress | None = None
        self._task: TaskID | None = None
        if not sys.stderr.isatty():
            return
        from rich.console import Console  # noqa: PLC0415 - only drawn on a terminal
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

        columns = (TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bars.add_task("simulating", total=None)
        self._bars.start()

    def show(self, what: str, done: int, total: int) -> None:
        """So many runs of so many have ended."""
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, description=what, completed=done, total=total)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bars is not None:
            self._bars.stop()
