"""What the health part remembers beside the fleet's columns: faults, unreadable sources, quarantines, repairs.

Values are frozen; the books themselves are dictionaries that an apply changes on its own clone (`State.own_health`). All of
them are bounded, and all of them are in the journal: counters outlive a restart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from controlplane.core.fleet import Accelerator
from controlplane.core.health.cell import ValidationCell
from controlplane.core.vocabulary import Assertion, HandlingLevel

MAX_SIGHTINGS = 32
"""Occurrences of one fault on one entity that are remembered."""
MAX_COUNTED = 65_536
"""Entities with a history of a fault."""
MAX_RECENT = 128
"""Devices that showed a code of late, remembered per code."""
MAX_REPAIRS = 16
"""Repairs remembered per serial number."""


@dataclass(frozen=True, slots=True)
class FaultNote:
    """One fault as it was received and judged. Times in Unix ns; `raised_ns` 0: the source did not say.

    `entity` is `node`, `accelerator/<position>` or `port/<position>`. `sequence` is the source's own. `until_ns`: when a
    debounce ends or a release timer runs out; 0: neither. `held`: it counts until then, also when it recovers before.
    `excused`: the software guard found that its job brought it about.
    """

    entity: str
    code: str
    level: HandlingLevel
    reason: str = ""
    vendor: str = ""
    severity: str = ""
    assertion: Assertion = Assertion.OCCURRED
    sequence: int = 0
    raised_ns: int = 0
    message: str = ""
    until_ns: int = 0
    held: bool = False
    excused: bool = False


@dataclass(frozen=True, slots=True)
class StandingFault:
    """A fault that has occurred and not recovered, or is held. `received_ns`: when we learned of it, Unix ns."""

    note: FaultNote
    received_ns: int


@dataclass(frozen=True, slots=True)
class Recent:
    """A device that showed a code of late."""

    node: str
    position: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class Source:
    """A source of health (a probe, a switch's manager) that cannot be read, and the positions that it speaks for (empty:
    all of the node)."""

    name: str
    reason: str
    accelerators: tuple[int, ...]
    since_ns: int


@dataclass(frozen=True, slots=True)
class Links:
    """Nodes to which a node's links are broken, as it said at `at_ns` (Unix ns)."""

    broken: tuple[str, ...]
    at_ns: int


@dataclass(frozen=True, slots=True)
class Stay:
    """A node in quarantine, under checks or on trial.

    `level`: what the fault asks for, so that the checks know what to repair. `evidence`: what led here. `serials`: the parts
    to blame. `tries`: checks that failed so far. `next_ns`: when checks may begin, or the trial ends, Unix ns. `paired_ns`: since
    when it waits to be tested with others (Unix ns), 0: it does not.
    """

    reason: str
    level: HandlingLevel
    evidence: tuple[str, ...]
    since_ns: int
    serials: tuple[str, ...] = ()
    tries: int = 0
    next_ns: int = 0
    paired_ns: int = 0


MAX_DIGITS = 10
"""A position from outside with as many digits is none."""

RESETS = frozenset({HandlingLevel.RESET_WHEN_IDLE, HandlingLevel.RESET_NOW})
"""Levels that ask for a reset of the device."""


@dataclass(slots=True)
class HealthBook:
    """Keys: `standing` by node name, `sightings` by `<serial>/<code>` (times in Unix ns), `sources` by node name, `stays` by node
    name, `repairs` by serial number (Unix ns at which it came back), `links` by the node that says so, `released` by node name
    (Unix ns: an operator's word; what happened before is not held against it), `refused` by node name (Unix ns at which the
    action budget last refused an act), `recent` by fault code, `alone` by node name (Unix ns: since when a silent node is no part
    of a crowd any more, of nodes that were in one). `cell`: nodes that are tested in
    pairs now, `paired` by node name (Unix ns: when it was in a cell last, whatever that proved).
    """

    standing: dict[str, tuple[StandingFault, ...]] = field(default_factory=dict)
    sightings: dict[str, tuple[int, ...]] = field(default_factory=dict)
    sources: dict[str, tuple[Source, ...]] = field(default_factory=dict)
    stays: dict[str, Stay] = field(default_factory=dict)
    repairs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    links: dict[str, Links] = field(default_factory=dict)
    released: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    recent: dict[str, tuple[Recent, ...]] = field(default_factory=dict)
    degraded: tuple[str, ...] = ()
    degraded_since_ns: int = 0
    alone: dict[str, int] = field(default_factory=dict)
    cell: ValidationCell | None = None
    paired: dict[str, int] = field(default_factory=dict)
    _waiting: tuple[str, ...] | None = field(default=None, init=False, repr=False, compare=False)

    def clone(self) -> HealthBook:
        """A copy whose dictionaries are its own."""
        return HealthBook(
            dict(self.standing), dict(self.sightings), dict(self.sources), dict(self.stays), dict(self.repairs),
            dict(self.links), dict(self.released), dict(self.refused), dict(self.recent), self.degraded, self.degraded_since_ns,
            dict(self.alone),
            self.cell, dict(self.paired),
        )  # fmt: skip

    def forget(self, node: str) -> None:
        """The node is none of the site's any more; the history of its parts stays with their serial numbers."""
        self.stand(node, ())
        for kept in (self.sources, self.stays, self.links, self.released, self.refused, self.alone, self.paired):
            kept.pop(node, None)

    def stand(self, node: str, faults: tuple[StandingFault, ...]) -> None:
        """From now on these faults stand on a node."""
        self._waiting = None
        if faults:
            self.standing[node] = faults
        else:
            self.standing.pop(node, None)

    def waiting(self) -> tuple[str, ...]:
        """Nodes of whose faults one waits for a time, or for its device to be reset: most only wait for a repair."""
        if self._waiting is None:
            self._waiting = tuple(
                node
                for node, faults in self.standing.items()
                if any(fault.note.until_ns or fault.note.level in RESETS for fault in faults)
            )
        return self._waiting

    def on(self, node: str) -> tuple[StandingFault, ...]:
        """Faults that stand on a node."""
        return self.standing.get(node, ())


def position_of(entity: str) -> int:
    """Position of the accelerator that an entity belongs to, -1 for the node itself."""
    kind, _, number = entity.partition("/")
    return int(number) if kind != "node" and number.isdecimal() and len(number) < MAX_DIGITS else -1


def serial_of(entity: str, node: str, devices: tuple[Accelerator, ...]) -> str:
    """The serial number that the history of an entity is kept under; the node's own is its name."""
    position = position_of(entity)
    if 0 <= position < len(devices) and devices[position].serial:
        return devices[position].serial
    return f"node:{node}" if position < 0 else f"node:{node}:{position}"
