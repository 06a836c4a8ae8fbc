"""Racks that go dark under a gang of the whole site: when it is decided, on a clock that advances by the turns' own CPU time.

Nodes beat once a second, one after the other. Their cells tell at once that the raylets are gone, ticks come when the brain
would let them come, and the journal is on disk. Everything else takes no time: what is left is rules and CPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from controlplane.adapters.journal.sql import SqlJournal
from controlplane.brain import paused, rested
from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.due import waits_until_ns
from controlplane.core.spec import JobSpec
from controlplane.core.units import NS_PER_MS, NS_PER_S, ms
from controlplane.engine.soft import NEVER_NS, TOGETHER_NS
from tests.benchmarks.core.site import WIDTH, GangSite

RACK = 64
NODES_PER_CELL = 250
MASS = 16
TICK_NS = ms(100)
LEASE_NS = 3 * NS_PER_S
AFTER_NS = ms(700)
"""After the last lease: what silence leads to is decided by then."""


class RackSite(GangSite):
    """Racks of 64 nodes, cells of 250, and one rack of spare nodes."""

    def hello(self, number: int, boot: int = 1) -> ev.NodeHello:
        """See GangSite."""
        return replace(super().hello(number, boot), labels=(("rack", f"r{number // RACK:03d}"),))

    def spec(self) -> JobSpec:
        """The gang takes all but the spare rack."""
        return replace(super().spec(), ranks=(self.nodes - self.spares) * self.ranks_per_node)

    def cells(self) -> Sequence[ev.CellHello]:
        """See GangSite."""
        names = [f"node-{number:04d}" for number in range(self.nodes)]
        return [
            ev.CellHello(
                f"cell-{at // NODES_PER_CELL:02d}", "1", "ray-1", "10.0.0.0:1",
                tuple((name, True) for name in names[at : at + NODES_PER_CELL]), tuple(names[at : at + NODES_PER_CELL]),
            )
            for at in range(0, self.nodes, NODES_PER_CELL)
        ]  # fmt: skip

    def whole_racks(self) -> list[list[int]]:
        """Racks of which the gang holds every node, always in the same order at random."""
        held = {*self.job.nodes()}
        racks = [list(range(at, at + RACK)) for at in range(0, self.nodes - RACK + 1, RACK)]
        whole = [rack for rack in racks if held >= {*rack}]
        return [whole[index] for index in np.random.default_rng(1).permutation(len(whole))]


@dataclass(frozen=True, slots=True)
class Dark:
    """`decided_ms` after the last lease, and turns that wrote something with their CPU time."""

    decided_ms: float
    turns: int
    cpu_ms: float


def go_dark(site: RackSite, numbers: Sequence[int]) -> Dark:
    """Nodes fall silent, and the gang's last verdict on it."""
    began_ns = site.soft.now_ns - NS_PER_S
    for number in numbers:
        site.soft.silent_since_ns[number] = began_ns + NS_PER_S * number // site.nodes + 1
    gone: dict[int, list[tuple[str, bool]]] = {}
    for number in numbers:
        gone.setdefault(number // NODES_PER_CELL, []).append((f"node-{number:04d}", False))
    site.turn(*(ev.CellReport(f"cell-{cell:02d}", "1", nodes=tuple(rows)) for cell, rows in gone.items()))
    ends = np.array([site.soft.silent_since_ns[number] for number in numbers]) + LEASE_NS
    last_ns = int(ends.max())
    now_ns, decided_ns, spent = int(ends.min()) - ms(30), 0, []
    while now_ns < last_ns + AFTER_NS:
        site.soft.now_ns = now_ns - 1
        records = site.turn(ev.Tick(), after_ns=1).records
        took_ns = site.cpu_ns[-1]
        if records:
            spent.append(took_ns)
        if any(isinstance(record, r.RecoveryDecided) for record in records):
            decided_ns = now_ns + took_ns
        first_ns = int(ends[ends > now_ns].min(initial=NEVER_NS))
        leases_ns = first_ns, int(ends.max(where=ends <= first_ns + TOGETHER_NS, initial=first_ns))
        due_ns = now_ns + paused(now_ns, TICK_NS, leases_ns, waits_until_ns(site.state, now_ns))
        now_ns = max(rested(due_ns, now_ns, took_ns, TICK_NS), now_ns + took_ns)
    assert decided_ns, site.job.blocker
    return Dark((decided_ns - last_ns) / NS_PER_MS, len(spent), sum(spent) / NS_PER_MS)


def measure(nodes: int) -> None:
    """Print what becomes of one rack, and of sixteen more that find no room."""
    with tempfile.TemporaryDirectory() as folder:
        journal = SqlJournal(f"sqlite:///{Path(folder) / 'journal.db'}")
        try:
            site = RackSite(nodes, spares=RACK, ranks_per_node=WIDTH, journal=journal)
            site.open()
            _show("one rack", go_dark(site, site.whole_racks()[0]))
            site.run_gang()
            racks = site.whole_racks()
            several = racks[: min(MASS, len(racks) // 2)]
            _show(f"{len(several)} racks", go_dark(site, [number for rack in several for number in rack]))
        finally:
            journal.close()


def _show(what: str, dark: Dark) -> None:
    print(
        f"{what}: decided {dark.decided_ms:.0f} ms after the last lease; {dark.turns} turns that wrote something, "
        f"{dark.cpu_ms:.0f} ms of CPU"
    )
