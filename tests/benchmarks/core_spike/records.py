"""Events in, records to the journal, effects out; and the encoding whose digest is the trace."""

import json
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One inbox entry; `kind` names the handler, `generation` 0 means that it belongs to no attempt."""

    kind: str
    a: int = 0
    b: int = 0
    generation: int = 0
    effect: int = 0


@dataclass(frozen=True, slots=True)
class Effect:
    """One thing to be done; `ranks` (starts only) has one entry per device, -1 to leave it; `at` is for wakes."""

    id: int
    kind: str
    target: int
    generation: int
    ranks: tuple[int, ...] = ()
    at: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """Base of everything the journal holds; `at` is the turn's time."""

    at: int


@dataclass(frozen=True, slots=True)
class NodesSuspected(Record):
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NodeWitnessed(Record):
    node: int


@dataclass(frozen=True, slots=True)
class NodesDied(Record):
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DeviceFailed(Record):
    node: int
    device: int


@dataclass(frozen=True, slots=True)
class RankExited(Record):
    rank: int


@dataclass(frozen=True, slots=True)
class NodeServiceChanged(Record):
    node: int
    service: int


@dataclass(frozen=True, slots=True)
class JobStalled(Record):
    progress: int
    silent_ns: int
    decide_at: int


@dataclass(frozen=True, slots=True)
class JobBlocked(Record):
    reason: str


@dataclass(frozen=True, slots=True)
class GenerationOpened(Record):
    number: int
    restore_step: int
    ranks: tuple[int, ...]
    nodes: tuple[int, ...]
    restarts: tuple[int, ...]
    wasted_ns: int


@dataclass(frozen=True, slots=True)
class RanksStarted(Record):
    node: int


@dataclass(frozen=True, slots=True)
class RanksJoined(Record):
    batch: int


@dataclass(frozen=True, slots=True)
class JobMoved(Record):
    state: int
    phase: int


@dataclass(frozen=True, slots=True)
class CheckpointCommitted(Record):
    step: int
    generation: int


@dataclass(frozen=True, slots=True)
class EffectIssued(Record):
    effect: int
    kind: str
    target: int
    generation: int


@dataclass(frozen=True, slots=True)
class EffectDone(Record):
    effect: int


@dataclass(frozen=True, slots=True)
class SignalRefused(Record):
    kind: str
    generation: int


RECORDS: dict[str, type[Record]] = {c.__name__: c for c in Record.__subclasses__()}
_FIELDS = {c: tuple(f.name for f in fields(c)) for c in RECORDS.values()}
_dump = json.JSONEncoder(separators=(",", ":")).encode


def encode(record: Record) -> bytes:
    """Type name and fields as a JSON list."""
    kind = type(record)
    return _dump([kind.__name__, *[getattr(record, name) for name in _FIELDS[kind]]]).encode() + b"\n"


def decode(body: bytes) -> Record:
    """Inverse of `encode`."""
    name, *values = json.loads(body)
    kind: Any = RECORDS[name]
    record: Record = kind(*[tuple(v) if isinstance(v, list) else v for v in values])
    return record
