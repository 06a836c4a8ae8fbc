"""What rules search messages with, and how they name ranks. Pure, and light: manifests are read with it on the client too."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Protocol

import re2

MAX_PATTERN = 500
"""Characters of a message pattern."""
PROGRAM_BYTES = 1 << 18
"""Memory that RE2 may spend on one pattern; one that would need more is refused."""
GROUPS = ("first", "last", "all")
MAX_PARTS = 64
"""Parts of a list of ranks."""
_RANGES = re.compile(r"[0-9]{1,9}(-[0-9]{1,9})?(,[0-9]{1,9}(-[0-9]{1,9})?)*")


class PatternError(ValueError):
    """A message pattern that is refused; the text says why."""


class Pattern(Protocol):
    """A compiled RE2 pattern."""

    def search(self, text: str) -> object:
        """The first match, None when there is none."""
        ...


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> Pattern:
    """An RE2 pattern: linear time whatever the message is, and no larger than `PROGRAM_BYTES`.

    Raises:
        PatternError: it is too long, no RE2 pattern, or its program would be too large.
    """
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"has {len(pattern)} characters, more than {MAX_PATTERN}")
    options = re2.Options()
    options.max_mem = PROGRAM_BYTES
    options.log_errors = False
    try:
        made: Pattern = re2.compile(pattern, options)
    except re2.error as error:
        raise PatternError(f"is no RE2 pattern: {_said(error)}") from error
    return made


def _said(error: Exception) -> str:
    """RE2 gives its errors as bytes."""
    value = error.args[0] if error.args else ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def is_group(text: str) -> bool:
    """Whether a text names ranks: first, last, all, or ascending ranges such as `0-3,8`."""
    if text in GROUPS:
        return True
    if len(text) > 20 * MAX_PARTS or not _RANGES.fullmatch(text):
        return False
    parts = ranges_of(text)
    return len(parts) <= MAX_PARTS and all(first <= last for first, last in parts)


def in_group(group: str, rank: int, ranks: int) -> bool:
    """Whether a rank of `ranks` is in `first`, `last` or ranges such as `0-3,8`."""
    match group:
        case "first":
            return rank == 0
        case "last":
            return rank == ranks - 1
        case _:
            return any(first <= rank <= last for first, last in ranges_of(group))


def ranges_of(text: str) -> tuple[tuple[int, int], ...]:
    """(first, last) of each part of `0-3,8`."""
    parts = (part.partition("-") for part in text.split(","))
    return tuple((int(first), int(last or first)) for first, _, last in parts)
