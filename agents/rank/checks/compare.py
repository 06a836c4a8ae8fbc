"""Who is the odd one: digests of several ranks in, names out. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agents.rank.checks.digest import DIGEST_BYTES

STATE, GRADIENTS = "state", "gradients"
NO_DIGEST = bytes(DIGEST_BYTES)
_ROW = 8 + 2 * DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class StateMark:
    """What a rank held when it was about to make `step`: digests of state and reduced gradients. The last mark of an interval is
    the state after it, without gradients."""

    step: int
    state: bytes
    gradients: bytes = NO_DIGEST

    def part(self, what: str) -> bytes:
        """One of the two digests."""
        return self.state if what == STATE else self.gradients


def pack(marks: Sequence[StateMark]) -> bytes:
    """Wire form of marks."""
    return b"".join(mark.step.to_bytes(8, "big") + mark.state + mark.gradients for mark in marks)


def unpack(data: bytes) -> tuple[StateMark, ...]:
    """Marks from their wire form. Raises ValueError for a length that holds no whole marks."""
    if len(data) % _ROW:
        raise ValueError(f"{len(data)} bytes are no whole number of marks of {_ROW} bytes")
    rows = (data[start : start + _ROW] for start in range(0, len(data), _ROW))
    return tuple(
        StateMark(int.from_bytes(row[:8], "big"), row[8 : 8 + DIGEST_BYTES], row[8 + DIGEST_BYTES :]) for row in rows
    )


@dataclass(frozen=True, slots=True)
class Disagreement:
    """The first place where replicas differ. `odd`: members outside the majority, () when there is none."""

    index: int
    step: int
    what: str
    odd: tuple[int, ...]
    digests: tuple[bytes, ...]

    @property
    def place(self) -> int:
        """Order in program time, from 1."""
        return 2 * self.index + (self.what == GRADIENTS) + 1


def disagreement(tables: Sequence[Sequence[StateMark]]) -> Disagreement | None:
    """The first difference between members' marks; None when all are equal. Members that made other steps than most differ
    from the first mark on."""
    steps = Counter(tuple(mark.step for mark in table) for table in tables)
    if len(steps) > 1:
        return Disagreement(0, 0, STATE, (), ())
    for index in range(min(map(len, tables), default=0)):
        for what in (STATE, GRADIENTS):
            digests = tuple(table[index].part(what) for table in tables)
            if len(set(digests)) > 1:
                return Disagreement(index, tables[0][index].step, what, minority(digests), digests)
    return None


def minority(values: Sequence[bytes]) -> tuple[int, ...]:
    """Members whose value is not that of more than half of them; () when no value is."""
    value, count = Counter(values).most_common(1)[0]
    return tuple(i for i, v in enumerate(values) if v != value) if 2 * count > len(values) else ()


@dataclass(frozen=True, slots=True)
class Culprits:
    """Members that computed or hold something wrong. `persistent`: it was so again; `decided`: False when the right one may be
    among them, because nobody can tell."""

    members: tuple[int, ...]
    persistent: bool
    decided: bool = True


def culprits(
    first: Disagreement, again: Disagreement | None, replayed: Sequence[Sequence[StateMark]], start: bytes
) -> Culprits:
    """Who was wrong, after all have done the interval again from the last state that was agreed on.

    Args:
        first: how members differed at first.
        again: how they differ after the replay; None: they agree now.
        replayed: marks of the replay, by member.
        start: digest of the state that was agreed on, from which the replay began.
    """
    everyone = tuple(range(len(replayed)))
    if again is None:  # it did not repeat: whoever's first result the replay does not confirm
        clean = replayed[0][first.index].part(first.what) if first.digests else NO_DIGEST
        changed = tuple(i for i, digest in enumerate(first.digests) if digest != clean)
        named = first.odd or (changed if len(changed) < len(everyone) else ())
        return Culprits(named or everyone, persistent=False, decided=bool(named))
    if again.odd:
        return Culprits(again.odd, persistent=True)
    if (
        again.index == 0 and again.what == STATE and again.digests
    ):  # nothing was computed yet: what was loaded did not stay
        changed = tuple(i for i, digest in enumerate(again.digests) if digest != start)
        if 0 < len(changed) < len(everyone):
            return Culprits(changed, persistent=True)
    return Culprits(everyone, persistent=True, decided=False)
