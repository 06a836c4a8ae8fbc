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
from controlplane.sim.checkers.book import HEALTH, Book
from controlplane.sim.checkers.lines import NodeLine

if TYPE_CHECKING:
    from controlplane.sim.world.site import World

COMMAND = "UncordonNode"
"""Cause of a record that takes back an operator's reason."""

OWN = frozenset({"fencing", HEALTH})
"""Owners of reasons that the controller gives and takes by itself."""

DOMAINS = frozenset({"rack", "switch", "power", "superpod"})
"""Labels that name failure domains, each with a cap of its own."""

BY_HEALTH = (r.NodeQuarantined, r.ChecksFailed, r.TrialStarted, r.NodeReleased)
"""Records with which health gives its reason, and takes it back."""


class BudgetHolds(Checker):
    """S9: working nodes that are made to give up ranks of a job that works, by whoever it is, in a sliding window; on the site,
    and in each failure domain. The checker sees by itself what works: it does not ask what a record calls disturbing."""

    invariant = "S9"
    watches = (r.NodeCordoned, r.NodeQuarantined)

    def __init__(self, budget: ActionBudget) -> None:
        self._budget = budget
        self._acts: deque[tuple[int, str]] = deque()

    def record(self, seen: Durable, book: Book) -> Iterator[Finding]:
        """Count a drain or a quarantine of what works, and compare with the caps."""
        record = seen.record
        assert isinstance(record, r.NodeCordoned | r.NodeQuarantined)
        node = book.node(record.node)
        leaves = isinstance(record, r.NodeQuarantined) or record.drain
        if not leaves or node.away or node.liveness is NodeLiveness.DEAD or any(node.cordons.values()):
            return
        number = book.numbers[record.node]
        if not any(place[0] == number for job in book.active() if job.whole for place in job.places):
            return
        self._acts.append((seen.at_ns, record.node))
        while self._acts[0][0] <= seen.at_ns - ms(self._budget.window_ms):
            self._acts.popleft()
        yield from self._compare(node, {name for _, name in self._acts}, book)

    def _compare(self, node: NodeLine, disturbed: set[str], book: Book) -> Iterator[Finding]:
        minutes = self._budget.window_ms / 60_000
        scopes = {"the site": book.nodes}
        for kind, name in node.labels.items():
            if kind in DOMAINS:
                scopes[f"{kind} {name}"] = [line for line in book.nodes if line.labels.get(kind) == name]
        for scope, lines in scopes.items():
            there = sum(line.name in disturbed for line in lines)
            racks = Counter(line.rack for line in lines if line.rack)
            most = max(1, int(len(lines) * self._budget.share), *racks.values())
            if there > most:
                text = f"{there} working nodes of {scope} were drained or quarantined within {minutes:g} min, {most} are allowed"
                yield Finding(node.name, text)


class OwnersKeepTheirReasons(Checker):
    """S11: a reason goes only when its owner takes it back."""

    invariant = "S11"
    watches = (r.NodeUncordoned, r.NodeCordoned, *BY_HEALTH)

    def __init__(self) -> None:
        self._touched: set[str] = set()

    def record(self, seen: Durable, book: Book) -> Iterator[Finding]:
        """An operator's reason goes by a command; what was touched is compared after the turn."""
        record = seen.record
        assert isinstance(record, (r.NodeUncordoned, r.NodeCordoned, *BY_HEALTH))
        self._touched.add(record.node)
        if seen.cause == COMMAND:
            return
        if isinstance(record, r.NodeUncordoned) and record.owner not in OWN:
            text = f"{record.owner}'s reason on {record.node} was taken back by {seen.cause}, not by a command of its owner"
            yield Finding(record.node, text)
        if isinstance(record, r.NodeReleased):
            yield Finding(record.node, f"{record.node} was released by {seen.cause}, not by an operator")

    def turn(self, after: State, book: Book, world: World) -> Iterator[Finding]:
        """Owners that the state knows are those of the journal."""
        for name in sorted(self._touched):
            known = {cordon.owner for cordon in after.fleet.facts[book.numbers[name]].cordons}
            told = set(book.node(name).cordons)
            if known != told:
                yield Finding(name, f"{name} is cordoned by {sorted(known)}, the journal says {sorted(told)}")
        self._touched.clear()
