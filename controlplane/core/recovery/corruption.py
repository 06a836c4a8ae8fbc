"""Silent corruption: what follows when a rank says that results disagree (exit codes 16 and 17). Pure.

Code 16 is a disagreement that did not repeat when the step was computed again, 17 one that did. A first 16 restarts the
rank and is remembered; 17, or a second sign on the same node within a day, is persistent: the node is taken out, and every
checkpoint that was made since the first sign is poisoned (`core.poison`), because nobody can say what is in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from controlplane.core.evidence import Offence
from controlplane.core.jobs import LostRank
from controlplane.core.units import ms

TRANSIENT = 16
PERSISTENT = 17
SIGNS = (TRANSIENT, PERSISTENT)
MEMORY_MS = 24 * 3_600_000
"""How long a first sign is remembered."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Results of `node` (by number) are suspect since `since_ns`, the first sign. `persistent`: they have to be thrown
    away."""

    node: int
    since_ns: int
    persistent: bool
    signs: int


def doubted(lost: Iterable[LostRank]) -> bool:
    """Whether a rank left because results disagreed: what others computed from its results, and hold in memory since, may be
    wrong as well, so that only what was compared before it was saved is restored."""
    return any(entry.facts.exit_code in SIGNS for entry in lost)


def suspicion(offences: Iterable[Offence], root: Offence) -> Suspicion | None:
    """What the root of an incident says about results; None when it says nothing about them."""
    if root.exit_code not in SIGNS:
        return None
    since = root.at_ns - ms(MEMORY_MS)
    earlier = [
        sign.at_ns
        for sign in offences
        if sign.node == root.node and sign.exit_code in SIGNS and since < sign.at_ns < root.at_ns
    ]
    persistent = root.exit_code == PERSISTENT or bool(earlier)
    return Suspicion(root.node, min([root.at_ns, *earlier]), persistent, 1 + len(earlier))
