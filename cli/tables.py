"""Tables as text: aligned, coloured on a terminal only, and free of whatever a name or a message could do to one.

Lists have up to tens of thousands of rows, so cells are worked on by column and written at once; `rich` takes seconds
for what this does in milliseconds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

STYLES = {
    "RUNNING": "32",
    "SUCCEEDED": "32",
    "IN_SERVICE": "32",
    "ALIVE": "32",
    "VERIFIED": "32",
    "RECOVERING": "33",
    "SUSPECT": "33",
    "QUARANTINED": "33",
    "DRAINING": "33",
    "FAILED": "31",
    "DEAD": "31",
    "POISONED": "31",
    "LOST": "31",
}
"""SGR codes of states that should catch the eye, or calm it."""

BOLD = "1"


def has_colour(stream: TextIO) -> bool:
    """Whether a stream is a terminal that takes colour, and nobody asked for none (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def clean(text: str) -> str:
    """Text that moves no cursor and hides nothing: what cannot be printed is shown by its escape."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def aligned(headers: Sequence[str], columns: Sequence[Sequence[str]], *, colour: bool) -> str:
    """A table of columns of equal length, with its header; the last column is not padded."""
    cells = [list(map(clean, column)) for column in columns]
    widths = [max(len(header), max(map(len, column), default=0)) for header, column in zip(headers, cells, strict=True)]
    widths[-1] = 0
    padded = [
        _coloured(column, width) if colour else [cell.ljust(width) for cell in column]
        for column, width in zip(cells, widths, strict=True)
    ]
    header = "  ".join(text.ljust(width) for text, width in zip(headers, widths, strict=True))
    lines = [f"\x1b[{BOLD}m{header}\x1b[0m" if colour else header, *map("  ".join, zip(*padded, strict=True))]
    return "\n".join(line.rstrip() for line in lines)


def _coloured(column: Sequence[str], width: int) -> list[str]:
    return [
        f"\x1b[{STYLES[cell]}m{cell}\x1b[0m{' ' * (width - len(cell))}" if cell in STYLES else cell.ljust(width)
        for cell in column
    ]
