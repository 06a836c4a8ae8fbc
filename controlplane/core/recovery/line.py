"""What of a job's past counts: a generation starts from a step, and later steps of earlier generations have not happened. Pure.

Copies that lie on disks outlive generations in which their node took no part, so that "newer than the restore point" is not all
that can be wrong with them. The line is what such a copy is compared with: pairs of (generation, step that it started from), both
rising; a generation that started from no later step than those before it takes their place.
"""

from __future__ import annotations

Line = tuple[tuple[int, int], ...]

MOST_STARTS = 16
"""Pairs that are kept. With more, the copies of generations before them do not count any more."""


def longer(line: Line, generation: int, step: int) -> Line:
    """The line with another generation."""
    kept = (*(pair for pair in line if pair[1] < step), (generation, step))
    if len(kept) <= MOST_STARTS:
        return kept
    first, *rest = kept[-MOST_STARTS:]
    return ((first[0], 0), *rest)
