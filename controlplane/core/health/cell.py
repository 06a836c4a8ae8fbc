"""The validation cell: nodes that test the paths between one another in pairs, and what they say. Values and pure functions.

An agent's word is about a pair, never about a node: who spoils it follows from several pairs (`pairing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from controlplane.core.health.pairing import Pair, first_round, second_round
from controlplane.core.vocabulary import PairWord

MOST_NODES = 64
"""Nodes in a cell; the others wait for the next one."""
LEAST_NODES = 4
"""So many it takes to name a bad one among them; nodes in service are lent to reach it."""
SLOW_SHARE = 0.1
"""Of the fastest pair of the cell. A path between sound nodes that is ten times as slow as another one is broken, too; what is less
may be the distance, or other work."""
TRIED = frozenset({PairWord.PASSED, PairWord.FAILED, PairWord.UNMET})
"""Words of a node that took part."""


@dataclass(frozen=True, slots=True)
class PairAnswer:
    """What one of the two says. `bytes_per_s`: of the slower direction, 0: not measured."""

    node: str
    peer: str
    word: PairWord
    text: str = ""
    bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ValidationCell:
    """One at a time on a site.

    `waiting`: nodes that come back when they pass. `lent`: idle nodes in service, so that there are enough. `waves`: pairs that
    were asked for, each wave after the one before. `boots`: by node, the agent's life that the last wave was asked of.
    """

    waiting: tuple[str, ...]
    lent: tuple[str, ...] = ()
    waves: tuple[tuple[Pair, ...], ...] = ()
    answers: tuple[PairAnswer, ...] = ()
    boots: dict[str, str] = field(default_factory=dict)

    @property
    def nodes(self) -> tuple[str, ...]:
        """All of them, those that wait first."""
        return (*self.waiting, *self.lent)


def results(cell: ValidationCell, waves: Iterable[tuple[Pair, ...]]) -> dict[Pair, bool]:
    """Pairs of some waves that gave a result: both nodes took part, whatever each of them says.

    A node whose partner died, was busy or gave no answer has no result, and nothing follows for it.
    """
    asked = [pair for wave in waves for pair in wave]
    said = {(answer.node, answer.peer): answer for answer in cell.answers}
    told = {
        (one, other): (said[one, other], said[other, one])
        for one, other in asked
        if (one, other) in said and (other, one) in said
    }
    found = {pair: both for pair, both in told.items() if {answer.word for answer in both} <= TRIED}
    speeds = {pair: min(answer.bytes_per_s for answer in both) for pair, both in found.items()}
    fastest = max(speeds.values(), default=0.0)
    return {
        pair: all(answer.word is PairWord.PASSED for answer in both) and speeds[pair] >= SLOW_SHARE * fastest
        for pair, both in found.items()
    }


def next_wave(cell: ValidationCell) -> tuple[Pair, ...]:
    """Pairs to ask for now that all earlier ones are over; empty: both rounds are done."""
    if not cell.waves:
        return first_round(cell.nodes)
    planned = second_round(cell.nodes, results(cell, cell.waves[:1]))
    done = len(cell.waves) - 1
    return planned[done] if done < len(planned) else ()


def story(cell: ValidationCell, node: str, found: Mapping[Pair, bool]) -> str:
    """What a node went through, for people."""
    parts = []
    for (one, other), passed in found.items():
        if node in (one, other):
            texts = dict.fromkeys(a.text for a in cell.answers if {a.node, a.peer} == {one, other} and a.text)
            how = "passed" if passed else "failed"
            parts.append(f"with {other if node == one else one} {how} ({'; '.join(texts)})")
    return ", ".join(parts)
