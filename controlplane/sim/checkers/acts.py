"""What may be done to what works: S9 (the action budget) and S11 (owned reasons)."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from controlplane.core import records as r
from controlplane.core.health.budget import ActionBudget
from controlplane.core.state import State
from controlplane.core.units import ms
from controlplane.core.vocabulary import NodeLiveness
from controlplane.sim.checkers.base import Checker, Durable, Finding
from controlplane.sim.checkers.book import Book

if TYPE_CHECKING:
    from controlplane.sim.world.site import World

COMMAND = "UncordonNode"
"""Cause of a record that takes back an operator's reason."""

OWN = frozenset({"fencing", "health"})
"""Owners of reasons that the controller gives and takes by itself."""


class BudgetHolds(Checker):
    """S9: working nodes that are made to give up their ranks, counted in a sliding window."""

    invariant = "S9"
    watches = (r.NodeCordoned,)

    def __init__(self, budget: ActionBudget) -> None:
        self._budget = budget
        self._acts: deque[tuple[int, str]] = deque()

    def record(self, seen: Durable, book: Book) -> Iterator[Finding]:
        """Count a drain of a node that works, and compare with the cap."""
        record = seen.record
        assert isinstance(record, r.NodeCordoned)
        node = book.node(record.node)
        if not record.drain or node.liveness is NodeLiveness.DEAD or any(node.cordons.values()):
            return
        number = book.numbers[record.node]
        if not any(place[0] == number for job in book.active() for place in job.places):
            return
        self._acts.append((seen.at_ns, record.node))
        while self._acts[0][0] <= seen.at_ns - ms(self._budget.window_ms):
            self._acts.popleft()
        disturbed = {name for _, name in self._acts}
        racks = Counter(line.rack for line in book.nodes if line.rack)
        most = max(1, int(len(book.nodes) * self._budget.share), *racks.values())
        if len(disturbed) > most:
            minutes = self._budget.window_ms / 60_000
            text = f"{len(disturbed)} working nodes were drained within {minutes:g} min, {most} are allowed"
            yield Finding(record.node, text)


class OwnersKeepTheirReasons(Checker):
    """S11: a reason goes only when its owner takes it back."""

    invariant = "S11"
    watches = (r.NodeUncordoned, r.NodeCordoned)

    def __init__(self) -> None:
        self._touched: set[str] = set()

    def record(self, seen: Durable, book: Book) -> Iterator[Finding]:
        """An operator's reason goes by a command; what was touched is compared after the turn."""
        record = seen.record
        assert isinstance(record, r.NodeUncordoned | r.NodeCordoned)
        self._touched.add(record.node)
        if isinstance(record, r.NodeUncordoned) and record.owner not in OWN and seen.cause != COMMAND:
            text = f"{record.owner}'s reason on {record.node} was taken back by {seen.cause}, not by a command of its owner"
            yield Finding(record.node, text)

    def turn(self, after: State, book: Book, world: World) -> Iterator[Finding]:
        """Owners that the state knows are those of the journal."""
        for name in sorted(self._touched):
            known = {cordon.owner for cordon in after.fleet.facts[book.numbers[name]].cordons}
            told = set(book.node(name).cordons)
            if known != told:
                yield Finding(name, f"{name} is cordoned by {sorted(known)}, the journal says {sorted(told)}")
        self._touched.clear()
