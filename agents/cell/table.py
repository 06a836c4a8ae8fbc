"""What the cell agent believes of its cell, and what of it the controller has not yet confirmed. No I/O, no clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from phalanx.v1 import cell_pb2

WINDOW = 64
"""Reports sent and not acknowledged; beyond it changes gather, and one full snapshot follows."""
RESEND_AFTER_S = 10.0
ENDED_LIMIT = 16_384

STARTING = cell_pb2.ACTOR_STATE_STARTING
ALIVE = cell_pb2.ACTOR_STATE_ALIVE
DEAD = cell_pb2.ACTOR_STATE_DEAD


@dataclass(frozen=True, slots=True)
class ActorRow:
    """One actor as it is reported."""

    host_id: str
    node: str
    state: cell_pb2.ActorState.ValueType
    reason: str = ""


class CellTable:
    """Nodes, actors and store of the cell, and the reports about them.

    A dead actor's row stays until a report that holds it is acknowledged; its id is remembered longer, because a host
    id has one life.
    """

    def __init__(self) -> None:
        self._nodes: dict[str, bool] = {}
        self._actors: dict[str, ActorRow] = {}
        self._ended: OrderedDict[str, ActorRow] = OrderedDict()
        self._store = ""
        self._changed_nodes: set[str] = set()
        self._changed_actors: set[str] = set()
        self._store_changed = False
        self._full_due = False
        self._sequence = 0
        self._acknowledged = 0
        self._oldest_sent_at: float | None = None
        self._dead_sent: dict[str, int] = {}

    @property
    def store(self) -> str:
        """Address of the rendezvous store; empty while it does not answer."""
        return self._store

    def set_nodes(self, nodes: dict[str, bool]) -> list[tuple[str, bool]]:
        """Replace the membership; returns the nodes that changed. A node that Ray has forgotten is not alive."""
        merged = dict.fromkeys(self._nodes, False) | nodes
        changed = [(node, alive) for node, alive in merged.items() if self._nodes.get(node) != alive]
        self._nodes = merged
        self._changed_nodes.update(node for node, _ in changed)
        return changed

    def set_store(self, address: str) -> bool:
        """Record what the probe found; whether that is new."""
        if address == self._store:
            return False
        self._store = address
        self._store_changed = True
        return True

    def actor(self, host_id: str) -> ActorRow | None:
        """The row of an actor, also of one whose end is long acknowledged."""
        return self._actors.get(host_id) or self._ended.get(host_id)

    def living(self) -> Iterable[ActorRow]:
        """Rows of actors not known to be dead."""
        return [row for row in self._actors.values() if row.state != DEAD]

    def set_actor(self, row: ActorRow) -> bool:
        """Record an actor; whether that is new. Death is final."""
        known = self.actor(row.host_id)
        if known == row or (known is not None and known.state == DEAD):
            return False
        self._actors[row.host_id] = row
        self._changed_actors.add(row.host_id)
        if row.state == DEAD:
            self._ended[row.host_id] = row
            while len(self._ended) > ENDED_LIMIT:
                self._ended.popitem(last=False)
        return True

    def report_again(self, host_id: str) -> None:
        """Somebody asked for a host that is known: let the next report hold its row."""
        row = self.actor(host_id)
        if row is not None:
            self._actors[host_id] = row
            self._changed_actors.add(host_id)

    def request_full(self) -> None:
        """The next report is a full snapshot."""
        self._full_due = True

    def hello_snapshot(self, now: float) -> cell_pb2.CellReport:
        """The snapshot of a new session: nothing of the former one is in flight any more."""
        self._acknowledged = self._sequence
        self._oldest_sent_at = None
        return self._full(now)

    def next_report(self, now: float) -> cell_pb2.CellReport | None:
        """The report to send now; None when nothing is due or the window is full."""
        if self._oldest_sent_at is not None and now - self._oldest_sent_at > RESEND_AFTER_S:
            self._full_due = True
            self._acknowledged = self._sequence
            self._oldest_sent_at = None
        if self._sequence - self._acknowledged >= WINDOW:
            self._full_due = True
            return None
        if self._full_due:
            return self._full(now)
        if not (self._changed_nodes or self._changed_actors or self._store_changed):
            return None
        return self._report(self._changed_nodes, self._changed_actors, now, full=False)

    def acknowledge(self, sequence: int, now: float) -> None:
        """`sequence` and all earlier reports are durable: rows of the dead that they held are dropped."""
        self._acknowledged = max(self._acknowledged, min(sequence, self._sequence))
        self._oldest_sent_at = None if self._acknowledged >= self._sequence else now
        for host_id in [host_id for host_id, sent in self._dead_sent.items() if sent <= self._acknowledged]:
            del self._dead_sent[host_id]
            if host_id not in self._changed_actors:
                self._actors.pop(host_id, None)

    def _full(self, now: float) -> cell_pb2.CellReport:
        self._full_due = False
        return self._report(set(self._nodes), set(self._actors), now, full=True)

    def _report(self, nodes: set[str], actors: set[str], now: float, *, full: bool) -> cell_pb2.CellReport:
        self._sequence += 1
        report = cell_pb2.CellReport(sequence=self._sequence, full=full, store_address=self._store)
        report.nodes.extend(cell_pb2.CellNode(node=node, alive=self._nodes[node]) for node in sorted(nodes))
        for host_id in sorted(actors):
            row = self._actors[host_id]
            report.actors.add(host_id=row.host_id, node=row.node, state=row.state, reason=row.reason)
            if row.state == DEAD:
                self._dead_sent[host_id] = self._sequence
        self._changed_nodes.clear()
        self._changed_actors.clear()
        self._store_changed = False
        if self._oldest_sent_at is None:
            self._oldest_sent_at = now
        return report
