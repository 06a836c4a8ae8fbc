"""What all probes of a node say, as the rows that its reports carry. No I/O, no clock.

Positions number the accelerators of the node from 0, without gaps, whichever vendor they are of; they are kept over restarts
of the agent (`to_keep`), because ranks are placed by them. An accelerator that was here and is not named any more is lost.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from phalanx.v1 import agent_pb2
from phalanx.v1 import types_pb2 as pb

from agents.node.hosts import age_ms
from agents.node.outbox import EventFinding, FaultKey
from agents.node.probes.wire import MAX_TEXT

MAX_ACCELERATORS = 256
MAX_FAULTS = 128
"""Standing faults of one vendor that are told, worst first: more say nothing more."""
MAX_STANDING = 224
"""Of all vendors together: what stands fits into one report, with room for what has just ended."""
MAX_SOURCES = 64
"""Sources that a report names; what is beyond them is told as one."""
MAX_AGE_MS = 1 << 50
MAX_UNPLACED = 5
MAX_EVENTS_REMEMBERED = 1_024
EVENT_COALESCE_S = 10.0
"""One incident makes a burst of the same event. It is counted once: rules of frequency count incidents."""
LOST = "DEVICE-LOST"
NODE = "node"
_NO_SERIAL = "pci-"  # what a probe calls a device that only the bus shows
MAX_IDENTITY = 256
"""Characters of a serial number, an address or a model."""
_SEVERITIES = ("critical", "", "major", "minor", "hint")
_NUMBER = re.compile(r"[0-9]{1,9}")
_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
"""What controllers take for the code of a fault."""
_ASSERTIONS = frozenset(pb.FaultAssertion.values()) - {pb.FAULT_ASSERTION_UNSPECIFIED}
_STATES = frozenset(pb.AcceleratorState.values()) - {pb.ACCELERATOR_STATE_UNSPECIFIED}


@dataclass(frozen=True, slots=True)
class Kept:
    """An accelerator as it is remembered over restarts of the agent."""

    vendor: str
    index: int
    serial: str
    pci_address: str
    model: str

    @property
    def named(self) -> bool:
        """Whether its serial number is known."""
        return bool(self.serial) and not self.serial.startswith(_NO_SERIAL)


@dataclass(slots=True)
class Changes:
    """What is to be told after a reading. `kept`: the accelerators themselves are others than before."""

    accelerators: set[int] = field(default_factory=set)
    faults: set[FaultKey] = field(default_factory=set)
    events: list[EventFinding] = field(default_factory=list)
    sources: bool = False
    kept: bool = False

    def __bool__(self) -> bool:
        return bool(self.accelerators or self.faults or self.events or self.sources)


@dataclass(frozen=True, slots=True)
class _Standing:
    """A fault that stands, and the moment (monotonic seconds) at which its source raised it; None: not said."""

    status: agent_pb2.FaultStatus
    raised_at: float | None


Source = tuple[str, str, tuple[int, ...]]  # name, reason, positions of the node


class DeviceBoard:
    """Accelerators, standing faults and unreadable sources of one node.

    Args:
        vendors: whose probes run here. What was kept of others is dropped.
        kept: what is remembered of an earlier life of the agent, by position.
    """

    def __init__(self, vendors: Sequence[str], kept: Iterable[Kept] = ()) -> None:
        self._kept = [entry for entry in kept if entry.vendor in vendors][:MAX_ACCELERATORS]
        self._rows = [_row(position, entry, pb.ACCELERATOR_STATE_UNKNOWN) for position, entry in enumerate(self._kept)]
        self._faults: dict[FaultKey, dict[str, _Standing]] = {}
        self._sources: dict[str, tuple[Source, ...]] = {}
        self._events: OrderedDict[FaultKey, tuple[int, float]] = OrderedDict()
        for vendor in vendors:
            self._sources[vendor] = (self._source(vendor, "probe", "has not answered since the agent started", ()),)

    # What is to be told

    def positions(self) -> Iterable[int]:
        """All accelerators."""
        return range(len(self._rows))

    def accelerator(self, position: int) -> agent_pb2.AcceleratorStatus:
        """One accelerator."""
        return self._rows[position]

    def fault_keys(self) -> Iterable[FaultKey]:
        """Every fault that stands."""
        return list(self._faults)

    def fault(self, key: FaultKey, now: float) -> agent_pb2.FaultStatus:
        """A fault as it stands at `now` (monotonic seconds); RECOVERED when it does not."""
        standing = next(iter(self._faults.get(key, {}).values()), None)
        if standing is None:
            entity, code = key
            return agent_pb2.FaultStatus(entity=entity, code=code, assertion=pb.FAULT_ASSERTION_RECOVERED)
        status = agent_pb2.FaultStatus()
        status.CopyFrom(standing.status)
        status.raised_age_ms = max(1, age_ms(standing.raised_at, now)) if standing.raised_at is not None else 0
        return status

    def unreadable(self) -> agent_pb2.UnreadableSources:
        """Sources that cannot be read, all of them."""
        every = [source for sources in self._sources.values() for source in sources]
        shown, rest = every[: MAX_SOURCES - 1], every[MAX_SOURCES - 1 :]
        if len(rest) > 1:  # none of them may be forgotten: what they speak for is not known
            covered = tuple(sorted({position for _, _, positions in rest for position in positions}))
            rest = [(f"{len(rest)} more sources", f"the first: {rest[0][0]}: {rest[0][1]}", covered)]
        return agent_pb2.UnreadableSources(
            sources=[
                agent_pb2.UnreadableSource(
                    name=name[:MAX_TEXT], reason=reason[:MAX_TEXT], accelerators=positions, node_only=not positions
                )
                for name, reason, positions in (*shown, *rest)
            ]
        )

    def to_keep(self) -> tuple[Kept, ...]:
        """What must be remembered over a restart of the agent, by position."""
        return tuple(self._kept)

    # What probes say

    def take(self, reading: agent_pb2.ProbeReading, now: float) -> Changes:
        """A reading came at `now` (monotonic seconds)."""
        vendor, changes = reading.vendor, Changes()
        places = self._places(reading, changes)
        told, unplaced = self._told_faults(reading, places, now, changes)
        blind = self._read_sources(reading, places, unplaced, changes)
        for position, entry in enumerate(self._kept):
            if entry.vendor == vendor and position not in places.values() and entry.model:
                state = pb.ACCELERATOR_STATE_UNKNOWN if position in blind else pb.ACCELERATOR_STATE_FAILED
                self._show(_row(position, entry, state), changes)
                if position not in blind:
                    lost = _lost(position, entry)
                    told[(lost.entity, LOST)] = _Standing(lost, None)
        self._stand(vendor, told, blind, changes)
        return changes

    def trouble(self, vendor: str, code: str, reason: str, now: float, unix_ms: int) -> Changes:
        """The probe of a vendor has ended in a way that is a fault by itself: what it speaks for is not known.

        Args:
            vendor, code, reason: as `SupervisedProbe` tells it.
            now: monotonic seconds.
            unix_ms: the same moment on the wall clock; it numbers the occurrence.
        """
        changes = Changes()
        self._set_sources(vendor, (self._source(vendor, "probe", reason, ()),), changes)
        for position, entry in enumerate(self._kept):
            if entry.vendor == vendor:
                self._show(_row(position, entry, pb.ACCELERATOR_STATE_UNKNOWN), changes)
        key = (NODE, code)
        if vendor not in self._faults.get(key, {}):
            status = agent_pb2.FaultStatus(
                entity=NODE, code=code, vendor=vendor, severity="major", message=f"the probe of {vendor}: {reason}",
                assertion=pb.FAULT_ASSERTION_OCCURRED, sequence=unix_ms,
            )  # fmt: skip
            self._faults.setdefault(key, {})[vendor] = _Standing(status, now)
            changes.faults.add(key)
        return changes

    def checked(self, faults: Sequence[agent_pb2.FaultStatus], vendor: str, now: float) -> Changes:
        """All that checks of this node have found and not found well since, on positions of the node."""
        changes = Changes()
        told: dict[FaultKey, _Standing | None] = {
            (row.entity, row.code): _Standing(row, now) for row in faults[:MAX_FAULTS]
        }
        self._stand(vendor, told, frozenset(), changes)
        return changes

    # Accelerators and their positions

    def _places(self, reading: agent_pb2.ProbeReading, changes: Changes) -> dict[int, int]:
        """Position of every device of the reading, by its vendor's index. Rows are shown on the way."""
        places: dict[int, int] = {}
        named = {device.serial for device in reading.accelerators}
        for device in sorted(reading.accelerators, key=lambda row: row.index):
            if device.index in places:  # a list that is there twice makes no second device
                continue
            words = (text[:MAX_IDENTITY] for text in (device.serial, device.pci_address, device.model))
            entry = Kept(reading.vendor, device.index, *words)
            position = self._find(entry, named, set(places.values()))
            if position is None:
                position = self._append(entry, changes)
                if position is None:
                    continue
            known = self._kept[position]
            if not entry.named and known.named:  # only the bus shows it: it is still the one that we know
                entry = Kept(entry.vendor, known.index, known.serial, entry.pci_address, known.model)
            if entry != known:
                self._kept[position] = entry
                changes.kept = True
            places[device.index] = position
            state = device.state if device.state in _STATES else pb.ACCELERATOR_STATE_UNKNOWN
            self._show(_row(position, entry, state), changes)
        return places

    def _find(self, entry: Kept, named: set[str], taken: set[int]) -> int | None:
        """The position of a device: by its serial number, else where its slot is and nothing that is still here."""
        mine = [(p, known) for p, known in enumerate(self._kept) if known.vendor == entry.vendor and p not in taken]
        for position, known in mine:
            if entry.named and known.serial == entry.serial:
                return position
        for position, known in mine:
            if known.serial in named and known.named:
                continue
            if known.pci_address == entry.pci_address if known.pci_address else known.index == entry.index:
                return position
        return None

    def _append(self, entry: Kept, changes: Changes) -> int | None:
        """A new position; None when there are too many. Numbers that the vendor left out are kept free, as UNKNOWN."""
        first = sum(known.vendor != entry.vendor for known in self._kept)
        while len(self._kept) < min(first + entry.index, MAX_ACCELERATORS):
            hole = Kept(entry.vendor, len(self._kept) - first, "", "", "")
            self._kept.append(hole)
            self._show(_row(len(self._kept) - 1, hole, pb.ACCELERATOR_STATE_UNKNOWN), changes)
        if len(self._kept) >= MAX_ACCELERATORS:
            return None
        self._kept.append(entry)
        changes.kept = True
        return len(self._kept) - 1

    def _show(self, row: agent_pb2.AcceleratorStatus, changes: Changes) -> None:
        if row.index == len(self._rows):
            self._rows.append(row)
        elif self._rows[row.index] == row:
            return
        self._rows[row.index] = row
        changes.accelerators.add(row.index)

    # Sources

    def _source(self, vendor: str, name: str, reason: str, positions: tuple[int, ...]) -> Source:
        mine = tuple(position for position, entry in enumerate(self._kept) if entry.vendor == vendor)
        return f"{vendor}: {name}", reason, positions or mine

    def _read_sources(
        self, reading: agent_pb2.ProbeReading, places: dict[int, int], unplaced: Sequence[str], changes: Changes
    ) -> frozenset[int]:
        """Note what could not be read; returns the positions that it speaks for, with -1 for the node itself."""
        blind: set[int] = set()
        sources: list[Source] = []
        if unplaced:
            sources.append((f"{reading.vendor}: faults", f"cannot be told: {', '.join(unplaced)}", ()))
        for row in reading.unreadable:
            if row.node_only:  # it tells of events alone: nothing that stands depends on it
                sources.append((f"{reading.vendor}: {row.name}", row.reason, ()))
                continue
            name, reason, covered = self._source(
                reading.vendor, row.name, row.reason, tuple({places[i]: None for i in row.accelerators if i in places})
            )
            blind |= {*covered} if row.accelerators else {*covered, -1}
            if (
                row.accelerators
            ):  # what is known of a device all the same is not made unknown by a value that is garbled
                covered = tuple(p for p in covered if self._rows[p].state == pb.ACCELERATOR_STATE_UNKNOWN)
            sources.append((name, reason, covered))
        self._set_sources(reading.vendor, tuple(sources), changes)
        return frozenset(blind)

    def _set_sources(self, vendor: str, sources: tuple[Source, ...], changes: Changes) -> None:
        if self._sources.get(vendor) != sources:
            self._sources[vendor] = sources
            changes.sources = True

    # Faults

    def _told_faults(
        self, reading: agent_pb2.ProbeReading, places: dict[int, int], now: float, changes: Changes
    ) -> tuple[dict[FaultKey, _Standing | None], list[str]]:
        """Faults of the reading by their key on this node, None for those that it calls recovered; events are taken out.

        The second value names a few of those that have no place: on a device that is not there, or too many.
        """
        told: dict[FaultKey, _Standing | None] = {}
        unplaced: list[str] = []
        for row in sorted(reading.faults, key=lambda row: _gravity(row.severity)):
            entity = _entity(row.entity, places)
            full = len(told) >= MAX_FAULTS and row.assertion == pb.FAULT_ASSERTION_OCCURRED
            if entity is None or full or not _CODE.fullmatch(row.code) or row.assertion not in _ASSERTIONS:
                unplaced.append(f"{row.code[:MAX_IDENTITY]} of {row.entity[:MAX_IDENTITY]}")
                continue
            status = agent_pb2.FaultStatus()
            status.CopyFrom(row)
            status.entity, status.vendor, status.message = entity, reading.vendor, row.message[:MAX_TEXT]
            status.severity = row.severity if row.severity in _SEVERITIES else ""  # no mild one: nobody knows it
            key = (entity, row.code)
            raised_at = now - min(row.raised_age_ms, MAX_AGE_MS) / 1_000 if row.raised_age_ms else None
            if row.assertion == pb.FAULT_ASSERTION_ONCE:
                self._event((row.entity, row.code), status, raised_at if raised_at is not None else now, changes)
            elif row.assertion == pb.FAULT_ASSERTION_RECOVERED:
                told[key] = None
            else:
                other = told.get(key)
                if other is not None:  # several ports of the machine: one fault of the node that names them
                    status.message = f"{other.status.message}; {status.message}"[:MAX_TEXT]
                told[key] = _Standing(status, raised_at)
        return told, unplaced[:MAX_UNPLACED]

    def _event(self, source: FaultKey, status: agent_pb2.FaultStatus, raised_at: float, changes: Changes) -> None:
        """What happened once is told once: not again when it is read again, and not for each of a burst. `source`: entity and
        code as the probe names them."""
        sequence, told_at = self._events.get(source, (-1, -EVENT_COALESCE_S))
        if status.sequence <= sequence and status.sequence:
            return
        burst = abs(raised_at - told_at) < EVENT_COALESCE_S
        self._events[source] = (status.sequence, told_at if burst else raised_at)
        self._events.move_to_end(source)
        while len(self._events) > MAX_EVENTS_REMEMBERED:
            self._events.popitem(last=False)
        if not burst:
            changes.events.append(EventFinding(status, raised_at))

    def _stand(
        self, vendor: str, told: dict[FaultKey, _Standing | None], blind: frozenset[int], changes: Changes
    ) -> None:
        """What is told stands; what stood and is not told has recovered, unless nobody could see."""
        for key, standing in told.items():
            known = self._faults.get(key, {}).get(vendor)
            if standing is None:
                self._end(key, vendor, changes)
            elif known is None and len(self._faults) >= MAX_STANDING and key not in self._faults:
                continue  # with so many, one more says nothing new: it is told when others have ended
            elif known is None or known.status.sequence < standing.status.sequence:
                self._faults.setdefault(key, {})[vendor] = standing
                changes.faults.add(key)
        for key in [key for key, by_vendor in self._faults.items() if vendor in by_vendor and key not in told]:
            if _position(key[0]) not in blind or key[1].startswith("PROBE-"):
                self._end(key, vendor, changes)

    def _end(self, key: FaultKey, vendor: str, changes: Changes) -> None:
        by_vendor = self._faults.get(key, {})
        if by_vendor.pop(vendor, None) is not None:
            changes.faults.add(key)
        if key in self._faults and not by_vendor:
            del self._faults[key]


def _row(position: int, entry: Kept, state: pb.AcceleratorState.ValueType) -> agent_pb2.AcceleratorStatus:
    return agent_pb2.AcceleratorStatus(
        index=position,
        serial=entry.serial,
        pci_address=entry.pci_address,
        vendor=entry.vendor,
        model=entry.model,
        state=state,
    )


def _lost(position: int, entry: Kept) -> agent_pb2.FaultStatus:
    return agent_pb2.FaultStatus(
        entity=f"accelerator/{position}",
        vendor=entry.vendor,
        code=LOST,
        severity="critical",
        assertion=pb.FAULT_ASSERTION_OCCURRED,
        message=f"{entry.model} {entry.serial} at {entry.pci_address} was there before and is gone",
    )


def _position(entity: str) -> int:
    kind, _, number = entity.partition("/")
    return int(number) if kind != NODE and _NUMBER.fullmatch(number) else -1


def _entity(entity: str, places: dict[int, int]) -> str | None:
    """The entity with the position on the node in place of the vendor's index; None when there is no such device.

    A port of a vendor without accelerators is one of the machine, and belongs to no accelerator.
    """
    kind, _, number = entity.partition("/")
    if entity == NODE or (kind == "port" and _NUMBER.fullmatch(number) and not places):
        return NODE
    if kind not in ("accelerator", "port") or not _NUMBER.fullmatch(number) or int(number) not in places:
        return None
    return f"{kind}/{places[int(number)]}"


def _gravity(severity: str) -> int:
    return _SEVERITIES.index(severity) if severity in _SEVERITIES else 0
