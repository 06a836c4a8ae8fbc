"""S8: where memory copies lie, against what the machines really share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from controlplane.core import records as r
from controlplane.core.recovery.copies import KINDS, Shared, place_copies, sites_of
from controlplane.core.state import State
from controlplane.sim.checkers.base import Checker, Durable, Finding
from controlplane.sim.checkers.book import Book

if TYPE_CHECKING:
    from controlplane.sim.world.nodes import SimNode
    from controlplane.sim.world.site import World


class CopiesLieElsewhere(Checker):
    """A copy does not share its original's fate, or is shown as weaker: planned anew for every rank table."""

    invariant = "S8"
    watches = (r.GenerationStarted,)

    def __init__(self) -> None:
        self._fresh: set[str] = set()

    def record(self, seen: Durable, book: Book) -> Iterator[Finding]:
        """Remember whose rank table is new."""
        record = seen.record
        assert isinstance(record, r.GenerationStarted)
        self._fresh.add(record.job)
        return iter(())

    def turn(self, after: State, book: Book, world: World) -> Iterator[Finding]:
        """The plan for each new rank table, node by node."""
        fresh, self._fresh = sorted(self._fresh), set()
        for uid in fresh:
            job = book.jobs[uid]
            rank_node = np.array([number for number, _ in job.places], dtype=np.int32)
            plan = place_copies(sites_of(rank_node, job.spec.parallel, after.fleet.domains))
            for number, holder, shared in zip(
                plan.node.tolist(), plan.holder.tolist(), plan.shared.tolist(), strict=True
            ):
                if holder < 0:
                    continue
                original, copy = (world.nodes[book.nodes[at].name] for at in (number, holder))
                hidden = _in_common(original, copy) & ~Shared(shared)
                if hidden:
                    text = f"{copy.name} holds the copies of {original.name} in {uid}, and nobody says: {hidden.words}"
                    yield Finding(original.name, text)
                    return


def _in_common(one: SimNode, other: SimNode) -> Shared:
    """What two machines share, by their labels."""
    ours, theirs = dict(one.labels), dict(other.labels)
    found = Shared.NODE if one is other else Shared.NOTHING
    for kind, flag in KINDS.items():
        if ours.get(kind) and ours.get(kind) == theirs.get(kind):
            found |= flag
    return found
