"""Nodes and their accelerators as columns, indexed by node number (order of first registration)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from controlplane.core.columns import BoolColumn, ByteColumn, IntColumn, LongColumn, filled, put
from controlplane.core.vocabulary import AcceleratorState, NodeLiveness, NodeService

FREE = -1
"""Value of an owner column where no job holds the accelerator or reserves the node."""
LENT = -2
"""Value of `reserved` in a view of the fleet for one job: a spare of another job that it may take (`placement.pool`)."""

NO_DOMAIN = -1
"""Value of a domain column where the node has no such label."""


# Members of an enumeration beside a column are three times as slow as plain numbers; these masks are made all the time.
_ALIVE = int(NodeLiveness.ALIVE)
_IN_SERVICE, _PROBATION = int(NodeService.IN_SERVICE), int(NodeService.PROBATION)
_DRAINING, _QUARANTINED = int(NodeService.DRAINING), int(NodeService.QUARANTINED)
_HEALTHY, _DEGRADED = int(AcceleratorState.HEALTHY), int(AcceleratorState.DEGRADED)

DOMAIN_KINDS = ("rack", "switch", "power", "superpod")
"""Labels that name failure domains above the node, smallest first: rack and super-pod are the tree for placement, switch
and power feed lie across it. A name is one domain of its kind on the whole site."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """Identity and last fault of one device; keyed by serial, never by index. `reported`: the probe's own word
    (`AcceleratorState`), 0 where it was not kept; what is believed is in `Fleet.acc_state`."""

    serial: str
    pci_address: str = ""
    vendor: str = ""
    model: str = ""
    fault_code: str = ""
    fault_message: str = ""
    reported: int = 0


@dataclass(frozen=True, slots=True)
class Cordon:
    """One owned reason why a node takes no new work. `items`: what must go before the owner takes it back, where it knows;
    `drain`: what runs there is to move elsewhere."""

    owner: str
    reason: str
    items: tuple[str, ...] = ()
    drain: bool = False


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What is known of a node and seldom changes."""

    name: str
    boot_id: str = ""
    address: str = ""
    version: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    cordons: tuple[Cordon, ...] = ()
    accelerators: tuple[Accelerator, ...] = ()

    def label(self, key: str) -> str:
        """Value of a label, "" when absent."""
        return next((value for name, value in self.labels if name == key), "")


def _empty(dtype: type) -> np.ndarray:
    return np.zeros(0, dtype=dtype)


@dataclass(slots=True)
class Fleet:
    """All nodes of the site.

    Columns have one row per node; `acc_state` and `acc_owner` are (nodes, widest node). Arrays are replaced, never
    written in place; `clone` is therefore cheap. `cell_known`: the node's raylet has been in the cell at least once, so
    that its absence says something; `cell_left_ns`: since when it has left the cell, Unix ns, 0: it is there.
    `path_broken`: its ranks prove that it lives, but nothing of its agent gets through.
    `domains` is (nodes, kinds): index into `domain_names` of each kind of `DOMAIN_KINDS`, NO_DOMAIN without a label.
    """

    facts: tuple[NodeFacts, ...] = ()
    liveness: ByteColumn = field(default_factory=lambda: _empty(np.uint8))
    service: ByteColumn = field(default_factory=lambda: _empty(np.uint8))
    session: BoolColumn = field(default_factory=lambda: _empty(np.bool_))
    cell_member: BoolColumn = field(default_factory=lambda: _empty(np.bool_))
    cordoned: BoolColumn = field(default_factory=lambda: _empty(np.bool_))
    rack: IntColumn = field(default_factory=lambda: _empty(np.int32))
    reserved: IntColumn = field(default_factory=lambda: _empty(np.int32))
    acc_state: ByteColumn = field(default_factory=lambda: np.zeros((0, 0), dtype=np.uint8))
    acc_owner: IntColumn = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int32))
    racks: tuple[str, ...] = ()
    index: dict[str, int] = field(default_factory=dict)
    cell_known: BoolColumn = field(default_factory=lambda: _empty(np.bool_))
    path_broken: BoolColumn = field(default_factory=lambda: _empty(np.bool_))
    domains: IntColumn = field(default_factory=lambda: np.zeros((0, len(DOMAIN_KINDS)), dtype=np.int32))
    domain_names: tuple[tuple[str, ...], ...] = ((),) * len(DOMAIN_KINDS)
    cell_left_ns: LongColumn = field(default_factory=lambda: _empty(np.int64))

    def clone(self) -> Fleet:
        """A copy that shares every column."""
        return Fleet(
            self.facts, self.liveness, self.service, self.session, self.cell_member, self.cordoned, self.rack,
            self.reserved, self.acc_state, self.acc_owner, self.racks, self.index, self.cell_known,
            self.path_broken, self.domains, self.domain_names, self.cell_left_ns,
        )  # fmt: skip

    @property
    def size(self) -> int:
        """Number of nodes ever registered."""
        return len(self.facts)

    def number(self, name: str) -> int | None:
        """Node number of a name."""
        return self.index.get(name)

    def name(self, number: int) -> str:
        """Name of a node number."""
        return self.facts[number].name

    def add(self, facts: NodeFacts) -> int:
        """Append a node: JOINING, ALIVE by registration, no session yet. Returns its number."""
        self.extend((facts,))
        return self.size - 1

    def extend(self, nodes: tuple[NodeFacts, ...]) -> None:
        """Append nodes, as `add` does one: each column is made anew once, however many they are."""
        first, count = self.size, len(nodes)
        names = [facts.label("rack") for facts in nodes]
        racks = dict.fromkeys((*self.racks, *names))
        self.racks = tuple(racks)
        number = {name: position for position, name in enumerate(self.racks)}
        self.facts = (*self.facts, *nodes)
        self.index = {**self.index, **{facts.name: first + at for at, facts in enumerate(nodes)}}
        self.liveness = np.append(self.liveness, filled(count, NodeLiveness.ALIVE, np.uint8))
        self.service = np.append(self.service, filled(count, NodeService.JOINING, np.uint8))
        unset = np.zeros(count, dtype=np.bool_)
        self.session = np.append(self.session, unset)
        self.cell_member = np.append(self.cell_member, unset)
        self.cell_known = np.append(self.cell_known, unset)
        self.path_broken = np.append(self.path_broken, unset)
        self.cell_left_ns = np.append(self.cell_left_ns, np.zeros(count, dtype=np.int64))
        self.domains = np.vstack([self.domains, self._domains_of(nodes)])
        self.cordoned = np.append(self.cordoned, np.array([bool(facts.cordons) for facts in nodes], dtype=np.bool_))
        self.rack = np.append(self.rack, np.array([number[name] for name in names], dtype=np.int32))
        self.reserved = np.append(self.reserved, filled(count, FREE))
        width = self.acc_state.shape[1]
        self.acc_state = np.vstack([self.acc_state, np.zeros((count, width), dtype=np.uint8)])
        self.acc_owner = np.vstack([self.acc_owner, filled(count * width, FREE).reshape(count, width)])

    def _domains_of(self, nodes: tuple[NodeFacts, ...]) -> IntColumn:
        """(nodes, kinds): their failure domains by their labels. Names that are new are remembered."""
        rows = filled(len(nodes) * len(DOMAIN_KINDS), NO_DOMAIN).reshape(len(nodes), -1)
        names = []
        for kind, label in enumerate(DOMAIN_KINDS):
            wanted = [facts.label(label) for facts in nodes]
            names.append(tuple(dict.fromkeys((*self.domain_names[kind], *filter(None, wanted)))))
            number = {name: position for position, name in enumerate(names[kind])}
            rows[:, kind] = [number.get(name, NO_DOMAIN) for name in wanted]
        self.domain_names = tuple(names)
        return rows

    def fill_gaps(self) -> None:
        """Columns that a snapshot of an earlier version does not hold."""
        if len(self.path_broken) != self.size:
            self.path_broken = np.zeros(self.size, dtype=np.bool_)
        if len(self.cell_left_ns) != self.size:
            self.cell_left_ns = np.zeros(self.size, dtype=np.int64)
        if len(self.domains) != self.size:
            self.domains = self._domains_of(self.facts)

    def set_facts(self, number: int, facts: NodeFacts) -> None:
        """Replace what is known of a node."""
        if facts.labels != self.facts[number].labels:
            self.domains = put(self.domains, number, self._domains_of((facts,))[0])
            rack = facts.label("rack")
            self.racks = self.racks if rack in self.racks else (*self.racks, rack)
            self.rack = put(self.rack, number, self.racks.index(rack))
        self.facts = (*self.facts[:number], facts, *self.facts[number + 1 :])
        self.cordoned = put(self.cordoned, number, bool(facts.cordons))

    def set_accelerators(self, number: int, devices: tuple[Accelerator, ...], states: tuple[int, ...]) -> None:
        """Replace the devices of a node, position by position; positions beyond become empty."""
        self.widen(len(devices))
        row = np.zeros(self.acc_state.shape[1], dtype=np.uint8)
        row[: len(states)] = states
        self.acc_state = put(self.acc_state, number, row)

    def widen(self, width: int) -> None:
        """Make room for nodes of so many devices."""
        grow = width - self.acc_state.shape[1]
        if grow > 0:
            self.acc_state = np.pad(self.acc_state, ((0, 0), (0, grow)))
            self.acc_owner = np.pad(self.acc_owner, ((0, 0), (0, grow)), constant_values=FREE)

    def schedulable(self) -> BoolColumn:
        """Nodes that may take new work now (S2): ALIVE with the path whole, in service, no cordon, session open, member of
        a cell."""
        mask: BoolColumn = (
            (self.liveness == _ALIVE)
            & ~self.path_broken
            & self.serving()
            & ~self.cordoned
            & self.session
            & self.cell_member
        )
        return mask

    def serving(self) -> BoolColumn:
        """Nodes in service, also on trial."""
        mask: BoolColumn = (self.service == _IN_SERVICE) | (self.service == _PROBATION)
        return mask

    def emptying(self) -> BoolColumn:
        """Nodes that what runs there is to leave: drained by somebody, or taken out by health."""
        mask: BoolColumn = (self.service == _DRAINING) | (self.service == _QUARANTINED)
        return mask

    def usable_accelerators(self) -> BoolColumn:
        """(nodes, width) mask of devices that can run a rank: HEALTHY or DEGRADED."""
        return self.usable(self.acc_state)

    @staticmethod
    def usable(state: ByteColumn) -> BoolColumn:
        """Mask over states of devices: those that can run a rank."""
        mask: BoolColumn = (state == _HEALTHY) | (state == _DEGRADED)
        return mask

    def total_accelerators(self) -> int:
        """Devices of the site, whatever their state."""
        return int(np.count_nonzero(self.acc_state))
