"""A long history of the bench's site in a real journal: decided by the product's own core, written through its own adapter.

Agents lose their streams and come back, again and again; now and then a node dies under a gang of the whole site, which
recovers. It ends with the gang running, and with a file that tells the generator which processes its nodes have.
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from phalanx.v1 import agent_pb2, cell_pb2

from controlplane.adapters.journal.sql import SqlJournal
from controlplane.core import events as ev
from controlplane.core.jobs import NONE, Hosts, host_id
from controlplane.core.units import NS_PER_MS, NS_PER_S
from controlplane.core.vocabulary import RankState
from controlplane.follower import store
from controlplane.rpc import observations
from tests.benchmarks.core.site import GangSite
from tests.benchmarks.fleet.gang import HOST_PID, PID, Gangs
from tests.benchmarks.fleet.generator import NODES_PER_CELL, PROCESSES, Cell, Node

AT_ONCE = 128
"""Agents that lose their streams together."""
FLAP_NS = NS_PER_S
RECORDS_PER_RECOVERY = 10_000


@dataclass
class History(GangSite):
    """The site of the bench, with every event as the edge would make it of the generator's own messages."""

    boots: dict[int, int] = field(default_factory=dict)
    _hellos: dict[int, ev.NodeHello] = field(default_factory=dict)
    _of_hosts: Hosts | None = None

    def hello(self, number: int, boot: int = 1) -> ev.NodeHello:
        """What the generator's node says, with the processes that the state has there."""
        hosts = self.job.hosts if self.state.jobs else None
        if hosts is not self._of_hosts:  # columns are never written in place
            self._hellos, self._of_hosts = {}, hosts
        if self.boots.get(number) != boot or number not in self._hellos:
            self.boots[number], self._hellos[number] = boot, self._hello(number, boot)
        return self._hellos[number]

    def _hello(self, number: int, boot: int) -> ev.NodeHello:
        node = Node(number, Gangs())
        node.boot = boot
        message = agent_pb2.AgentMessage.FromString(node.hello()).hello
        hello = observations.node_hello(message, self.soft.now_ns, self.state)
        return ev.NodeHello(
            hello.node, hello.boot_id, hello.labels, hello.address, hello.version, self._processes(number),
            hello.accelerators, hello.faults, hello.unreadable,
        )  # fmt: skip

    def cells(self) -> Sequence[ev.CellHello]:
        """The generator's cells."""
        names = [f"node-{number:04d}" for number in range(self.nodes)]
        hellos = []
        for at in range(0, self.nodes, NODES_PER_CELL):
            cell = Cell(at // NODES_PER_CELL, names[at : at + NODES_PER_CELL], lambda order: None)
            message = cell_pb2.CellMessage.FromString(cell.hello()).hello
            hellos.append(observations.cell_hello(message, tuple(cell.nodes)))
        return hellos

    def raylet(self, name: str, *, alive: bool) -> ev.CellReport:
        """See GangSite."""
        cell = self.cells()[self.state.fleet.index[name] // NODES_PER_CELL]
        return ev.CellReport(cell.cell, cell.boot_id, nodes=((name, alive),))

    def _processes(self, number: int) -> tuple[ev.HostRow, ...]:
        if not self.state.jobs:
            return ()
        hosts = self.job.hosts
        rows = np.flatnonzero((hosts.node == number) & hosts.live())
        return tuple(
            ev.HostRow(
                self.job.uid, int(hosts.serial[row]), RankState(int(hosts.state[row])), int(hosts.rank[row]),
                int(hosts.generation[row]), PID, HOST_PID,
                int(hosts.since_ms[row]) * NS_PER_MS, None, *self.times(int(hosts.rank[row])),
            )
            for row in rows
        )  # fmt: skip

    def times(self, rank: int) -> tuple[int, ...]:
        """When a rank reached what, Unix ns."""
        return tuple(self.job.rank_times[rank].tolist()) if rank != NONE else (0, 0, 0, 0)

    def flap(self, numbers: Sequence[int]) -> None:
        """Streams break, and their agents come back a second later."""
        facts = self.state.fleet.facts
        self.turn(*(ev.NodeSessionLost(facts[n].name, facts[n].boot_id, "the stream was reset") for n in numbers))
        self.turn(*(self.hello(n, self.boots[n]) for n in numbers), after_ns=FLAP_NS)

    def replace_node(self, number: int) -> None:
        """A node dies, its ranks go on elsewhere, and it comes back; what agents are asked for is done."""
        self.lose_node(number)
        self.repair_node(number)
        asked = [effect.id for effect in self.state.effects.values() if not effect.group]
        self.turn(*(ev.EffectDone(name, True, "") for name in asked))


def build(folder: Path, nodes: int, records: int, tail: int, seed: int) -> None:
    """A history of so many records, of which at least `tail` come after the newest snapshot.

    Args:
        folder: of the bench's site; the journal is made in `journal` below it.
        nodes, records, tail: sizes.
        seed: of which nodes it happens to.
    """
    place = folder / "journal"
    place.mkdir(mode=0o700)
    journal = SqlJournal(f"sqlite:///{place / 'journal.db'}")
    try:
        site = History(nodes, journal=journal, start_ns=time.time_ns() - 60 * 86_400 * NS_PER_S)
        site.open()
        random = np.random.default_rng([seed, *b"history"])
        snapped = False
        shown = recovered = 0
        while site.state.revision < records:
            site.flap(random.choice(nodes, min(AT_ONCE, nodes), replace=False).tolist())
            revision = site.state.revision
            if revision // RECORDS_PER_RECOVERY > recovered:
                recovered = revision // RECORDS_PER_RECOVERY
                site.replace_node(int(random.choice(site.job.nodes())))
            if not snapped and revision >= records - tail:
                store(journal, site.state)
                snapped, records = True, max(records, revision + tail)
            if revision - shown >= records // 10:
                shown = revision
                sys.stdout.write(f"  history: {revision:,} of {records:,} records\n")
                sys.stdout.flush()
        _tell(folder, site)
    finally:
        journal.close()


def _tell(folder: Path, site: History) -> None:
    """What the generator's nodes have."""
    job, facts = site.job, site.state.fleet.facts
    rows: dict[str, list[list[object]]] = defaultdict(list)
    for at in np.flatnonzero(job.hosts.live()).tolist():
        rank = int(job.hosts.rank[at])
        rows[facts[int(job.hosts.node[at])].name].append([
            host_id(job.uid, int(job.hosts.serial[at])), int(job.hosts.state[at]), int(job.hosts.since_ms[at]), rank,
            int(job.hosts.generation[at]), *(moment // NS_PER_MS for moment in site.times(rank)),
        ])  # fmt: skip
    boots = {facts[number].name: boot for number, boot in site.boots.items()}
    (folder / PROCESSES).write_text(json.dumps({"job": job.uid, "boots": boots, "processes": rows}))
