"""Which of many nodes spoils collectives: pairs in two rounds. Pure.

Round one pairs all nodes with one another; of a pair that fails one node at least is bad. Round two pairs every node of a failed
pair with one of a pair that passed, each with another one as long as there are enough. A pair passes only if both its nodes are
sound, so a pass clears both and nothing else clears anybody; a failure with a node that is cleared convicts the other. Whoever is
neither stays a suspect, and no third round guesses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What the pairs have shown. `cleared`: sound, by a pass. `convicted`: bad, by a failure with a cleared one. `suspects`:
    everybody else, also who was in no pair that gave a result."""

    cleared: frozenset[str]
    convicted: frozenset[str]
    suspects: frozenset[str]


def first_round(nodes: Sequence[str]) -> tuple[Pair, ...]:
    """Everybody with the next one; the last of an odd number waits for the second round."""
    return tuple(zip(nodes[0::2], nodes[1::2], strict=False))


def second_round(nodes: Sequence[str], results: Mapping[Pair, bool]) -> tuple[tuple[Pair, ...], ...]:
    """Waves of pairs, in each of which a node works in one pair at most.

    Suspects are paired with cleared nodes. Where nobody is cleared (two nodes, three, or every pair has failed) those that have
    not met yet are paired with one another in one wave: a pass there still clears.

    Args:
        nodes: as in the first round.
        results: of the first round's pairs; one that gave no result is missing.
    """
    known = verdicts(nodes, results)
    suspects = [node for node in nodes if node in known.suspects]
    sound = [node for node in nodes if node in known.cleared]
    if not suspects:
        return ()
    if sound:
        waves = [suspects[begin : begin + len(sound)] for begin in range(0, len(suspects), len(sound))]
        return tuple(tuple(zip(wave, cycle(sound), strict=False)) for wave in waves)
    return (_strangers(suspects, results),)


def _strangers(suspects: Sequence[str], results: Mapping[Pair, bool]) -> tuple[Pair, ...]:
    """Pairs of nodes that have not met: each with one from the pair after its own."""
    met = {frozenset(pair) for pair in results}
    found: list[Pair] = []
    left = list(suspects)
    while left:
        node = left.pop(0)
        other = next((name for name in left if frozenset((node, name)) not in met), None)
        if other is not None:
            left.remove(other)
            found.append((node, other))
    return tuple(found)


def verdicts(nodes: Iterable[str], results: Mapping[Pair, bool]) -> Verdicts:
    """What the results of all rounds prove.

    Raises:
        ValueError: a pair holds a node that is none of `nodes`, or one node twice.
    """
    names = frozenset(nodes)
    for first, second in results:
        if first == second or not {first, second} <= names:
            raise ValueError(f"{first} and {second} are no pair of these {len(names)} nodes")
    cleared = frozenset(node for pair, passed in results.items() if passed for node in pair)
    failed = [frozenset(pair) for pair, passed in results.items() if not passed]
    convicted = frozenset(node for pair in failed if len(pair - cleared) == 1 for node in pair - cleared)
    return Verdicts(cleared, convicted, names - cleared - convicted)
