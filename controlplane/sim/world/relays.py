"""Relays: streams of up to 64 nodes through one process, and what is the same on all of them said once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from controlplane.core import events as ev
from controlplane.core.jobs import NONE
from controlplane.core.ranges import runs
from controlplane.core.vocabulary import RankState
from controlplane.sim.world.nodes import SimNode

if TYPE_CHECKING:
    from controlplane.core.fleet import Fleet
    from controlplane.sim.world.site import World

Told = tuple[SimNode, ev.NodeReport]
Uniform = tuple[str, int, RankState, int]
"""Job, generation, state and column: what all processes of one columnar event share."""


class Relays:
    """Which relay each node talks through, and which relays live."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.down: set[str] = set()

    def names(self) -> list[str]:
        """All relays that nodes talk through, in order."""
        return list(dict.fromkeys(node.relay for node in self.world.nodes.values() if node.relay))

    def behind(self, name: str) -> list[SimNode]:
        """The nodes of a relay."""
        return [node for node in self.world.nodes.values() if node.relay == name]

    def carries(self, node: SimNode) -> bool:
        """Whether the node's way is open."""
        return node.relay not in self.down

    def lose(self, name: str) -> list[SimNode]:
        """The relay dies; returns the nodes whose streams ended. None: it was not there."""
        if name in self.down:
            return []
        lost = [node for node in self.behind(name) if node.session]
        if lost:
            self.down.add(name)
        for node in lost:
            self.world.agents.end_session(node, f"relay {name} is gone")
        for node in self.behind(name):
            self.world.agents.unheard(node)
        self.world.gangs.sight_changed()
        return lost

    def take_over(self, name: str) -> None:
        """Another process speaks for the relay's nodes: they dial again."""
        self.down.discard(name)
        self.world.agents.hello_all([node for node in self.behind(name) if not node.session])
        self.world.gangs.sight_changed()

    def fold(self, batch: Sequence[Told], fleet: Fleet) -> tuple[list[Told], list[ev.HostsReached]]:
        """What must be told row by row, and what each relay can say in one event."""
        rest: list[Told] = []
        columns: dict[tuple[str, Uniform], list[Told]] = {}
        for node, report in batch:
            alike = _uniform(report) if node.relay else None
            if alike is None:
                rest.append((node, report))
            else:
                columns.setdefault((node.relay, alike), []).append((node, report))
        events = []
        for (relay, alike), told in columns.items():
            if len(told) == 1:
                rest += told
                continue
            job, generation, state, column = alike
            rows = [row for _, report in told for row in report.hosts]
            numbers = [number for node, _ in told if (number := fleet.number(node.name)) is not None]
            at_ns = max(row.since_ns if column == NONE else _times(row)[column] for row in rows)
            serials = runs(sorted(row.serial for row in rows))
            event = ev.HostsReached(relay, job, generation, state, serials, at_ns, column, runs(sorted(numbers)))
            events.append(event)
        return rest, events


def _times(row: ev.HostRow) -> tuple[int, int, int, int]:
    return row.joining_ns, row.rendezvous_ns, row.restored_ns, row.first_step_ns


def _uniform(report: ev.NodeReport) -> Uniform | None:
    """What all rows of a report share; None: it says more than that."""
    if not report.hosts or replace(report, hosts=()) != ev.NodeReport(report.node, report.boot_id):
        return None
    kinds = {_column(row) for row in report.hosts}
    return kinds.pop() if len(kinds) == 1 else None


def _column(row: ev.HostRow) -> Uniform | None:
    if row.exit is not None:
        return None
    match row.state:
        case RankState.PARKED if row.rank == NONE:
            return row.job, 0, row.state, NONE
        case RankState.PAUSED:
            return row.job, row.generation, row.state, NONE
        case RankState.JOINING:
            return row.job, row.generation, row.state, 0
        case RankState.RESTORING:
            return row.job, row.generation, row.state, 2 if row.restored_ns else 1
        case RankState.RUNNING:
            return row.job, row.generation, row.state, 3
        case _:
            return None
