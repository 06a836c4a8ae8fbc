"""Runs of numbers, `((first, count), ...)`: how records and messages name many ranks or processes in few bytes.

A gang of 50,000 ranks is one run at its start and a few hundred after a thousand replacements. Everything here is
vectorised; a run that claims to be huge costs no more than any other where it is only compared (`within`).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Ranges = tuple[tuple[int, int], ...]
"""Runs `(first, count)`; their order is that of the numbers that they stand for."""


def runs(numbers: np.ndarray | Iterable[int]) -> Ranges:
    """The runs of a sequence of numbers, in its order: `expand` gives the sequence back."""
    array = np.asarray(numbers if isinstance(numbers, np.ndarray) else list(numbers), dtype=np.int64)
    if not len(array):
        return ()
    starts = np.concatenate(([0], np.flatnonzero(np.diff(array) != 1) + 1))
    counts = np.diff(np.append(starts, len(array)))
    return tuple(zip(array[starts].tolist(), counts.tolist(), strict=True))


def size(ranges: Ranges) -> int:
    """How many numbers they stand for."""
    return sum(count for _, count in ranges)


def expand(ranges: Ranges) -> np.ndarray:
    """The numbers (int64), in the order of the runs."""
    if not ranges:
        return np.zeros(0, dtype=np.int64)
    table = np.array(ranges, dtype=np.int64)
    ends = np.cumsum(table[:, 1])
    numbers: np.ndarray = np.arange(int(ends[-1])) + np.repeat(table[:, 0] - (ends - table[:, 1]), table[:, 1])
    return numbers


def within(ascending: np.ndarray, ranges: Ranges) -> np.ndarray:
    """Mask over an ascending column: its numbers that lie in a run. Runs may overlap and may claim numbers that nobody has."""
    if not ranges:
        return np.zeros(len(ascending), dtype=np.bool_)
    table = np.array(ranges, dtype=np.int64)
    starts = np.searchsorted(ascending, table[:, 0])
    ends = np.searchsorted(ascending, table[:, 0] + table[:, 1])
    if len(table) == 1:
        mask = np.zeros(len(ascending), dtype=np.bool_)
        mask[starts[0] : ends[0]] = True
        return mask
    depth = np.zeros(len(ascending) + 1, dtype=np.int32)
    np.add.at(depth, starts, 1)
    np.add.at(depth, np.maximum(ends, starts), -1)
    result: np.ndarray = np.cumsum(depth[:-1]) > 0
    return result


def cover(ascending: np.ndarray, chosen: np.ndarray) -> Ranges:
    """Runs that hold every chosen number of an ascending column and none of its others; they may reach over numbers that are
    not in the column at all. So a gang with holes, which everybody who reads this has too, is still one run."""
    if len(chosen) and chosen.all():
        return ((int(ascending[0]), int(ascending[-1]) - int(ascending[0]) + 1),)
    at = np.flatnonzero(chosen)
    if not len(at):
        return ()
    starts = np.concatenate(([0], np.flatnonzero(np.diff(at) != 1) + 1))
    ends = np.append(starts[1:], len(at)) - 1
    firsts, lasts = ascending[at[starts]].astype(np.int64), ascending[at[ends]].astype(np.int64)
    return tuple(zip(firsts.tolist(), (lasts - firsts + 1).tolist(), strict=True))
