"""Who stands still, and who only waits for it: stacks and collectives of the ranks of a gang, as columns. Pure.

In a synchronous job one rank that stops makes all others wait, in a collective that it has not entered. So the ranks that hang
are those that are not inside of any collective while somebody waits for them: their count of that group's collectives is behind
(`Calls`), a signal holds them, or, where nobody counts, their stack is outside while those of most others are inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from controlplane.core.ranges import Ranges, runs

UNREAD = -1
"""In place of the number of a place: the stack could not be read."""
SHARE_ODD = 0.5
"""More of a gang are not the odd ones."""
SHARE_UNHEARD = 0.02
"""So many ranks may be missing in evidence that accuses others."""
GROUPS_KEPT = 12
"""Groups of ranks that a verdict is told with; what is beyond them is counted."""
RUNS_KEPT = 8
"""Runs of ranks that a group names."""
PLACE_KEPT = 300
"""Characters of a place in a verdict."""
UP = " < "
"""Between a function and the one that called it."""


class Verdict(StrEnum):
    """ODD: some ranks hang, the others wait for them. STUCK: all wait inside of collectives. MOVING: collectives come and go.
    UNCLEAR: what was found accuses nobody. OVER: the job made a step meanwhile, or a new controller looks."""

    ODD = "odd"
    STUCK = "stuck"
    MOVING = "moving"
    UNCLEAR = "unclear"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Calls:
    """Collectives as ranks count them, a row for each rank and group: `issued` is the number of the newest one, `waits` whether
    the rank waits for it. `group` and `operation` are positions in the names of the `Stacks`."""

    rank: np.ndarray
    group: np.ndarray
    operation: np.ndarray
    issued: np.ndarray
    waits: np.ndarray

    @staticmethod
    def none() -> Calls:
        """Nobody counts."""
        zero = np.zeros(0, dtype=np.int64)
        return Calls(zero, zero, zero, zero, np.zeros(0, dtype=np.bool_))


@dataclass(frozen=True, slots=True)
class Stacks:
    """Where ranks stand, columns of equal length. `place`: position in `places`, UNREAD where it could not be read. `inside`: it
    waits in a collective; `stopped`: a signal holds it; `moved`: a collective began or ended while it was looked at.

    `places`: stacks, the innermost function first, with UP between them. `groups`: process groups, unlike ones with unlike text;
    what is before the first ":" is for people. `troubles`: why stacks could not be read.
    """

    rank: np.ndarray
    place: np.ndarray
    inside: np.ndarray
    stopped: np.ndarray
    moved: np.ndarray
    places: tuple[str, ...]
    calls: Calls
    groups: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()

    @staticmethod
    def none() -> Stacks:
        """Nobody has answered."""
        number, flag = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.bool_)
        return Stacks(number, number, flag, flag, flag, (), Calls.none())


@dataclass(frozen=True, slots=True)
class StackGroup:
    """Ranks that stand at one place: the first runs of them, how many they are, and where."""

    ranks: Ranges
    count: int
    where: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What the evidence says. `odd`: the ranks that hang, ascending; `reason`: the verdict in words."""

    verdict: Verdict
    odd: np.ndarray
    reason: str
    groups: tuple[StackGroup, ...]


def merged(parts: Sequence[Stacks]) -> Stacks:
    """The answers of many nodes as one; of a rank that is told twice the later answer counts."""
    parts = [part for part in parts if len(part.rank)]
    if not parts:
        return Stacks.none()
    places, groups, operations = _Names(), _Names(), _Names()
    place = np.concatenate([places.numbers(part.places, part.place) for part in parts])
    group = np.concatenate([groups.numbers(part.groups, part.calls.group) for part in parts])
    operation = np.concatenate([operations.numbers(part.operations, part.calls.operation) for part in parts])
    rank = np.concatenate([part.rank for part in parts])
    _, last = np.unique(rank[::-1], return_index=True)
    rows = len(rank) - 1 - last
    newest = np.concatenate([np.full(len(part.rank), number) for number, part in enumerate(parts)])[rows]
    of = np.concatenate([np.full(len(part.calls.rank), number) for number, part in enumerate(parts)])
    told = np.concatenate([part.calls.rank for part in parts])
    kept = newest[np.searchsorted(rank[rows], told)] == of

    def column(name: str) -> np.ndarray:
        values: np.ndarray = np.concatenate([getattr(part, name) for part in parts])[rows]
        return values

    issued = np.concatenate([part.calls.issued for part in parts])[kept]
    waits = np.concatenate([part.calls.waits for part in parts])[kept]
    troubles = tuple(dict.fromkeys(text for part in parts for text in part.troubles))[:GROUPS_KEPT]
    return Stacks(
        rank[rows], place[rows], column("inside"), column("stopped"), column("moved"), places.all(),
        Calls(told[kept], group[kept], operation[kept], issued, waits), groups.all(), operations.all(), troubles,
    )  # fmt: skip


class _Names:
    """Texts that get numbers in the order in which they come."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def numbers(self, names: tuple[str, ...], column: np.ndarray) -> np.ndarray:
        """A column over `names` as one over all names; UNREAD stays."""
        found = np.array([self._known.setdefault(name, len(self._known)) for name in names] + [UNREAD], dtype=np.int64)
        result: np.ndarray = found[column]
        return result

    def all(self) -> tuple[str, ...]:
        """Every name, by number."""
        return tuple(self._known)


def judge(stacks: Stacks, present: np.ndarray, node_of: Callable[[int], str]) -> Finding:
    """Who hangs.

    Args:
        stacks: what was answered; ranks that do not take part are left out.
        present: the ranks that take part, ascending.
        node_of: the name of a rank's node, for the words.
    """
    here = np.isin(stacks.rank, present)
    rank = stacks.rank[here]
    inside = stacks.inside[here] & ~stacks.stopped[here]
    stopped = stacks.stopped[here]
    groups = _grouped(stacks, here, rank)
    unheard = len(present) - len(rank)
    if stacks.moved[here].any():
        count = int(np.count_nonzero(stacks.moved[here]))
        return Finding(Verdict.MOVING, rank[:0], f"collectives of {_ranks(count)} begin and end: they work", groups)
    behind = np.isin(rank, _behind(stacks.calls))
    odd = stopped | (behind & ~inside)
    if not odd.any():
        odd = ~inside & (stacks.place[here] != UNREAD)
    accused, waiting = int(np.count_nonzero(odd)), int(np.count_nonzero(inside))
    complete = unheard <= SHARE_UNHEARD * len(present)
    if 0 < accused <= SHARE_ODD * len(present) <= waiting and complete:
        return Finding(Verdict.ODD, rank[odd], _accusation(stacks, here, odd, present, node_of), groups)
    if len(rank) and inside.all() and not unheard:
        return Finding(Verdict.STUCK, rank[:0], f"all {_ranks(len(rank))} {_awaited(stacks, rank)}", groups)
    parts = (
        [f"{waiting} of {_ranks(len(present))} wait in collectives"] if waiting else ["no rank waits in a collective"]
    )
    parts += [f"{accused} stand elsewhere"] if accused else []
    parts += [f"of {unheard} nothing was heard"] if unheard else []
    parts += [f"stacks could not be read ({stacks.troubles[0]})"] if stacks.troubles else []
    return Finding(Verdict.UNCLEAR, rank[:0], ", ".join(parts), groups)


def _behind(calls: Calls) -> np.ndarray:
    """Ranks that have not begun a collective for which a member of their group waits."""
    if not calls.waits.any():
        return calls.rank[:0]
    newest = np.zeros(int(calls.group.max()) + 1, dtype=np.int64)
    np.maximum.at(newest, calls.group[calls.waits], calls.issued[calls.waits])
    late: np.ndarray = np.unique(calls.rank[calls.issued < newest[calls.group]])
    return late


def _awaited(stacks: Stacks, ranks: np.ndarray) -> str:
    """What most of some ranks wait for."""
    calls = stacks.calls
    rows = calls.waits & np.isin(calls.rank, ranks)
    if not rows.any():
        return "wait in a collective"
    table = np.stack([calls.group[rows], calls.operation[rows], calls.issued[rows]], axis=1)
    kinds, counts = np.unique(table, axis=0, return_counts=True)
    group, operation, issued = kinds[counts.argmax()].tolist()
    name = stacks.groups[group].partition(":")[0]
    more = len(kinds) - 1
    others = f", others in {more} more collective{'s' * (more > 1)}" if more else ""
    return f"wait in {stacks.operations[operation]} #{issued} of group {name}{others}"


def _accusation(
    stacks: Stacks, here: np.ndarray, odd: np.ndarray, present: np.ndarray, node_of: Callable[[int], str]
) -> str:
    rank = stacks.rank[here]
    accused = np.flatnonzero(odd).tolist()
    waiting = int(np.count_nonzero(~odd))
    parts = [f"{waiting} of {_ranks(len(present))} {_awaited(stacks, rank[~odd])}"]
    for row in accused[:3]:
        number = int(rank[row])
        place = int(stacks.place[here][row])
        where = f"is in {shortly(stacks.places[place])}" if place != UNREAD else "gives no stack"
        held = "is stopped by a signal and " if stacks.stopped[here][row] else ""
        parts.append(f"rank {number} (node {node_of(number)}) {held}{where}")
    if len(accused) > 3:
        parts.append(f"and {len(accused) - 3} more ranks beside them")
    return "; ".join(parts)


def shortly(place: str) -> str:
    """The first function of a place, and the library call that it is in."""
    first, _, rest = place.partition(UP)
    library = rest.rpartition(" (in ")[2] if rest.endswith(")") and " (in " in rest else ""
    return f"{first} (in {library}" if library else first


def _grouped(stacks: Stacks, here: np.ndarray, rank: np.ndarray) -> tuple[StackGroup, ...]:
    """Ranks by where they stand, most first."""
    table = np.stack([stacks.place[here], stacks.inside[here], stacks.stopped[here]], axis=1).astype(np.int64)
    if not len(table):
        return ()
    kinds, which, counts = np.unique(table, axis=0, return_inverse=True, return_counts=True)
    which = which.reshape(-1)
    found = []
    for kind in np.argsort(-counts, kind="stable").tolist()[:GROUPS_KEPT]:
        place, inside, stopped = kinds[kind].tolist()
        ranks = rank[which == kind]
        where = stacks.places[place][:PLACE_KEPT] if place != UNREAD else "no stack"
        what = f"{_awaited(stacks, ranks).removeprefix('wait ')}: " if inside else ""
        found.append(StackGroup(runs(ranks)[:RUNS_KEPT], len(ranks), f"{'stopped: ' if stopped else ''}{what}{where}"))
    left = len(counts) - len(found)
    if left:
        others = len(rank) - sum(group.count for group in found)
        found.append(StackGroup((), others, f"at {left} other places"))
    return tuple(found)


def _ranks(count: int) -> str:
    return f"{count} rank{'' if count == 1 else 's'}"
