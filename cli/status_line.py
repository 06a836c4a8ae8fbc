"""What a command is at: one line on a terminal that is written over, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from cli import render

EVERY_S = 10.0
"""Between two lines where nothing can be written over; short work says nothing there."""
REDRAW_S = 0.1


class StatusLine:
    """Use as a context; the line is gone at its end."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._told_s = time.monotonic()
        self._open = False

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
            self._open = False

    def show(self, text: str) -> None:
        """Says it, unless something was said just now."""
        now_s = time.monotonic()
        if now_s - self._told_s < (REDRAW_S if self._terminal else EVERY_S):
            return
        self._told_s = now_s
        if not self._terminal:
            render.note(text)
            return
        sys.stderr.write(f"\r\x1b[2K{text}")
        sys.stderr.flush()
        self._open = True
