"""S8: where memory copies lie, against what the machines really share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from controlplane.core import records as r
from controlplane.core.recovery.copies import KINDS, CopyPlan, Shared, place_copies, sites_of
from controlplane.core.state import State
from controlplane.sim.checkers.base import Checker, Durable, Finding
from controlplane.sim.checkers.book import Book
from controlplane.sim.checkers.lines import JobLine

if TYPE_CHECKING:
    from controlplane.sim.world.nodes import SimNode
    from controlplane.sim.world.site import World


SHOWN = 4
"""Nodes that a finding names."""


class CopiesLieElsewhere(Checker):
    """Every node that runs ranks has a holder among the others of its job, again after every change of places; and a copy does
    not share its original's fate, or is shown as weaker."""

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
            yield from self._placed(job, {int(node) for node in rank_node if node >= 0}, plan, book)
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

    @staticmethod
    def _placed(job: JobLine, nodes: set[int], plan: CopyPlan, book: Book) -> Iterator[Finding]:
        """The copies are those of this rank table, and nobody else holds them."""
        planned = set(plan.node.tolist())
        if planned != nodes:
            odd = _named(planned ^ nodes, book)
            yield Finding(
                job.uid, f"the copies of {job.uid} were not placed again: its nodes are not those with copies: {odd}"
            )
        holders = {int(holder) for holder in plan.holder if holder >= 0}
        if len(nodes) > 1 and (len(holders) < 2 or holders - nodes):
            text = f"copies of {job.uid} are held by {_named(holders, book) or 'nobody'}, its ranks run on {_named(nodes, book)}"
            yield Finding(job.uid, text)


def _named(numbers: set[int], book: Book) -> str:
    return ", ".join(book.nodes[number].name for number in sorted(numbers)[:SHOWN])


def _in_common(one: SimNode, other: SimNode) -> Shared:
    """What two machines share, by their labels."""
    ours, theirs = dict(one.labels), dict(other.labels)
    found = Shared.NODE if one is other else Shared.NOTHING
    for kind, flag in KINDS.items():
        if ours.get(kind) and ours.get(kind) == theirs.get(kind):
            found |= flag
    return found
