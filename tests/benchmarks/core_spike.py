"""Benchmark behind docs/design/0001: can one Python machine be the production brain and the simulator's?

A reduced core (one job, node / rack / accelerator / process faults, spares, checkpoints, ledger) runs under
a virtual clock through the engine's turn. All times are integer nanoseconds of virtual time unless a name says
otherwise. The state lives in numpy columns or in frozen dataclasses (``--representation``); the turn forks a
working copy or applies in place (``--turn``). All four combinations must write the same records.
"""

import argparse
import contextlib
import cProfile
import hashlib
import heapq
import json
import math
import os
import platform
import pstats
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Index = int | slice | Array | list[int]

MS, S = 1_000_000, 1_000_000_000
HOUR, DAY = 3600 * S, 86400 * S
NEVER = 1 << 62
DEVICES = 8  # accelerators of one node
RACK_NODES, SWITCH_RACKS = 64, 8
LEASE, BEAT, SWEEP, DRAIN = 3 * S, 1 * S, 500 * MS, 1 * MS
COLLECT, STEP, SAVE_EVERY = 2 * S, 5 * S, 180 * S
JOIN_BATCHES = 8  # columnar acknowledgements of one rank-table patch
PATCHES_PER_BASE = 64
CHECKPOINTS_KEPT = 8
FULL_CHECK_EVERY = 1000
# Rates: 6.5 node faults per 1,000 node-days is the high row of the reference table (RSC-1, FT-HSDP at 98k);
# repairs have the median and mean of the StepFun trace; the other four are choices, printed with the result.
NODE_FAULTS, DEVICE_FAULTS, CRASHES = 6.5, 1.5, 1.5  # per 1,000 node-days
RACK_FAULT_DAYS, ZOMBIE_SHARE, SESSION_RESET_SHARE = 10.0, 0.05, 0.7
REPAIR_MEDIAN_H, REPAIR_MEAN_H, REPAIR_MIN_H = 20.0, 133.0, 0.25

ALIVE, SUSPECT, DEAD = 0, 1, 3  # node liveness
IN_SERVICE, DRAINING, QUARANTINED, OUT_OF_SERVICE, VALIDATING = range(5)  # node service
RUNNING, PAUSED, STARTING, JOINING, RESTORING, EXITED, LOST = range(7)  # rank; the first and RESTORING also job
RECOVERING = 7  # job
HEALTHY, FAILED = 0, 1  # accelerator
PRODUCTIVE, DETECTION, RECOVERY, CHECKPOINT_RESTORE, QUEUED, WASTED_PROGRESS, SPARE, OUT = range(8)  # ledger
JOB = 8  # account of a device that follows its job's phase
BUCKETS = (
    "PRODUCTIVE", "DETECTION", "RECOVERY", "CHECKPOINT_RESTORE", "QUEUED", "WASTED_PROGRESS", "SPARE", "QUARANTINED",
)  # fmt: skip


# ---------------------------------------------------------------- events, records, effects


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


# ---------------------------------------------------------------- state


class Store(Protocol):
    """What exists thousands of times. Names are `<entity>_<field>`; what a read returns is not to be written."""

    copy_ns: int

    def at(self, name: str, i: int) -> int: ...
    def gather(self, name: str, idx: Index) -> Array: ...
    def column(self, name: str) -> Array: ...
    def put(self, name: str, idx: Index, value: Any) -> None: ...
    def fork(self) -> "Store": ...


class Columns:
    """One numpy array per field; a fork shares all arrays and copies one when it first writes to it."""

    def __init__(self, columns: dict[str, Array], owned: set[str]) -> None:
        self._columns, self._owned, self.copy_ns = columns, owned, 0

    def at(self, name: str, i: int) -> int:
        return int(self._columns[name][i])

    def gather(self, name: str, idx: Index) -> Array:
        return np.asarray(self._columns[name][idx])

    def column(self, name: str) -> Array:
        return self._columns[name]

    def put(self, name: str, idx: Index, value: Any) -> None:
        if name not in self._owned:
            begin = perf_counter_ns()
            self._columns[name] = self._columns[name].copy()
            self._owned.add(name)
            self.copy_ns += perf_counter_ns() - begin
        self._columns[name][idx] = value

    def fork(self) -> "Columns":
        return Columns(dict(self._columns), set())


@dataclass(frozen=True, slots=True)
class Node:
    liveness: int
    service: int
    witness: int


@dataclass(frozen=True, slots=True)
class Device:
    state: int
    account: int
    holder: int
    runner: int


@dataclass(frozen=True, slots=True)
class Rank:
    node: int
    device: int
    state: int
    weak: int


class Objects:
    """One frozen dataclass per node, device and rank, in dicts; a fork copies a dict when it first writes to it."""

    KINDS: dict[str, type[Any]] = {"node": Node, "device": Device, "rank": Rank}

    def __init__(self, rows: dict[str, dict[int, Any]], owned: set[str]) -> None:
        self._rows, self._owned, self.copy_ns = rows, owned, 0

    @classmethod
    def of(cls, columns: dict[str, Array]) -> "Objects":
        rows = {}
        for entity, kind in cls.KINDS.items():
            lists = [columns[f"{entity}_{f.name}"].tolist() for f in fields(kind)]
            rows[entity] = {i: kind(*values) for i, values in enumerate(zip(*lists, strict=True))}
        return cls(rows, set(rows))

    def at(self, name: str, i: int) -> int:
        entity, _, field = name.partition("_")
        return int(getattr(self._rows[entity][i], field))

    def gather(self, name: str, idx: Index) -> Array:
        entity, _, field = name.partition("_")
        rows = self._rows[entity]
        return np.array([getattr(rows[i], field) for i in _ints(idx, len(rows))], dtype=np.int32)

    def column(self, name: str) -> Array:
        entity, _, field = name.partition("_")
        return np.array([getattr(row, field) for row in self._rows[entity].values()], dtype=np.int32)

    def put(self, name: str, idx: Index, value: Any) -> None:
        entity, _, field = name.partition("_")
        if entity not in self._owned:
            begin = perf_counter_ns()
            self._rows[entity] = self._rows[entity].copy()
            self._owned.add(entity)
            self.copy_ns += perf_counter_ns() - begin
        rows, which = self._rows[entity], _ints(idx, len(self._rows[entity]))
        values = [int(value)] * len(which) if np.ndim(value) == 0 else [int(v) for v in value]
        for i, v in zip(which, values, strict=True):
            rows[i] = replace(rows[i], **{field: v})

    def fork(self) -> "Objects":
        return Objects(dict(self._rows), set())


def _ints(idx: Index, size: int) -> Sequence[int]:
    if isinstance(idx, int):
        return (idx,)
    if isinstance(idx, slice):
        return range(*idx.indices(size))
    return [int(i) for i in idx]


@dataclass(frozen=True, slots=True)
class Patch:
    number: int
    ranks: tuple[int, ...]
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """Current rank table as a base (node column of generation `base_number`) and the patches since."""

    base_number: int
    base_node: Array
    patches: tuple[Patch, ...]


@dataclass(frozen=True, slots=True)
class Job:
    state: int
    phase: int
    generation: int
    restore_step: int
    progress: int
    decide_at: int
    blocker: str
    homeless: tuple[int, ...]  # ranks whose node is gone, in the order of loss
    exited: tuple[int, ...]  # ranks to be started again where they were
    fencing: frozenset[int]  # nodes not yet known to be empty
    starting: frozenset[int]  # nodes whose start is not yet acknowledged
    joined: int  # bit set of acknowledged batches


@dataclass(frozen=True, slots=True)
class Ledger:
    """Totals are Python ints: 50,000 devices over 54 days are 2.3e20 ns, more than int64 holds."""

    at: int
    totals: tuple[int, ...]
    devices: tuple[int, ...]  # per account, PRODUCTIVE..OUT and JOB

    def advanced(self, at: int, phase: int) -> "Ledger":
        span, totals = at - self.at, list(self.totals)
        if not span:
            return self
        totals[SPARE] += span * self.devices[SPARE]
        totals[OUT] += span * self.devices[OUT]
        totals[phase] += span * self.devices[JOB]
        return Ledger(at, tuple(totals), self.devices)

    def moved(self, source: int, target: int, amount: int) -> "Ledger":
        """Retroactive: time booked as `source` turns out to have been `target`; never below zero."""
        totals = list(self.totals)
        amount = min(amount, totals[source])
        totals[source] -= amount
        totals[target] += amount
        return Ledger(self.at, tuple(totals), self.devices)


@dataclass(slots=True)
class State:
    """Everything replay rebuilds. `rack` is static."""

    store: Store
    rack: Array
    job: Job
    table: Generation
    ledger: Ledger
    effects: dict[int, Effect]
    checkpoints: tuple[int, ...]
    next_effect: int
    revision: int

    def fork(self) -> "State":
        return State(self.store.fork(), self.rack, self.job, self.table, self.ledger, dict(self.effects),
                     self.checkpoints, self.next_effect, self.revision)  # fmt: skip

    def digest(self) -> str:
        job = [sorted(v) if isinstance(v, frozenset) else v for v in astuple(self.job)]
        h = hashlib.sha256(repr((job, self.ledger, sorted(self.effects), self.checkpoints)).encode())
        for name in sorted(COLUMN_TYPES):
            h.update(self.store.column(name).astype(np.int32).tobytes())
        return h.hexdigest()


COLUMN_TYPES = {
    "node_liveness": np.uint8, "node_service": np.uint8, "node_witness": np.uint8,
    "device_state": np.uint8, "device_account": np.uint8, "device_holder": np.int32, "device_runner": np.int32,
    "rank_node": np.int32, "rank_device": np.int32, "rank_state": np.uint8, "rank_weak": np.uint8,
}  # fmt: skip


def genesis(nodes: int, spares: int, representation: str) -> State:
    """The job runs as generation 1 on the first `nodes - spares` nodes."""
    ranks, devices = (nodes - spares) * DEVICES, nodes * DEVICES
    size = {"node": nodes, "device": devices, "rank": ranks}
    columns: dict[str, Array] = {n: np.zeros(size[n.partition("_")[0]], t) for n, t in COLUMN_TYPES.items()}
    columns["rank_node"][:] = np.arange(ranks) // DEVICES
    columns["rank_device"][:] = np.arange(ranks) % DEVICES
    for name in ("device_holder", "device_runner"):
        columns[name][:] = np.where(np.arange(devices) < ranks, np.arange(devices), -1)
    columns["device_account"][:] = np.where(np.arange(devices) < ranks, JOB, SPARE)
    rack = (np.arange(nodes) // RACK_NODES).astype(np.int32)
    columns["rank_weak"][:] = rack[columns["rank_node"]] == rack[np.roll(columns["rank_node"], -(ranks // 2))]
    counts = tuple(int(n) for n in np.bincount(columns["device_account"], minlength=JOB + 1))
    base = columns["rank_node"].copy()
    store: Store = Columns(columns, set(columns)) if representation == "columns" else Objects.of(columns)
    job = Job(RUNNING, PRODUCTIVE, 1, 0, 0, 0, "", (), (), frozenset(), frozenset(), 0)
    return State(store, rack, job, Generation(1, base, ()), Ledger(0, (0,) * len(BUCKETS), counts), {}, (0,), 1, 0)


def slots_of(nodes: Sequence[int]) -> Array:
    """Device ids of whole nodes."""
    return (np.asarray(nodes, np.int64)[:, None] * DEVICES + np.arange(DEVICES)).ravel()


def slots_on(node: int) -> slice:
    """Device ids of one whole node, as a slice: no index array to build."""
    return slice(node * DEVICES, (node + 1) * DEVICES)


# ---------------------------------------------------------------- machine


class SoftState(Protocol):
    """What is never journalled: beats and steps. Columns in production, closed forms in the simulator."""

    def last_beat(self, nodes: slice, now: int) -> Array: ...
    def step(self, now: int) -> tuple[int, int]:
        """Newest finished step of the job and the time at which it finished."""


Decision = tuple[list[Record], list[Effect]]


class Machine:
    """`step` decides and reads only; `apply` is the only mutation, the same in life and in replay."""

    def __init__(self, soft: SoftState) -> None:
        self._soft = soft
        self._step = {n[3:]: getattr(self, n) for n in dir(self) if n.startswith("on_")}
        self._apply = {c: getattr(self, "fold_" + c.__name__) for c in RECORDS.values()}

    def step(self, state: State, event: Event, now: int) -> Decision:
        if event.generation and event.generation != state.job.generation:
            return [SignalRefused(now, event.kind, event.generation)], []
        decision: Decision = self._step[event.kind](state, event, now)
        return decision

    def apply(self, state: State, record: Record) -> None:
        self._apply[type(record)](state, record)
        state.revision += 1

    # -- decisions

    def _issue(self, state: State, now: int, out: Decision, effect: Effect) -> None:
        """Write the record of an effect and give it its id; never after a wake in the same decision."""
        number = out[1][-1].id + 1 if out[1] else state.next_effect
        out[0].append(EffectIssued(now, number, effect.kind, effect.target, effect.generation))
        out[1].append(replace(effect, id=number))

    def _stall(self, state: State, now: int, out: Decision) -> None:
        """The job has lost ranks: stop counting its time as productive and open the collect window."""
        job = state.job
        if job.state == RECOVERING:
            return
        progress, finished_at = self._soft.step(now) if job.state == RUNNING else (job.progress, now)
        out[0].append(JobStalled(now, progress, now - finished_at, now + COLLECT))
        out[1].append(Effect(0, "wake", 0, 0, at=now + COLLECT))

    def on_session_lost(self, state: State, event: Event, now: int) -> Decision:
        known = state.store.at("node_liveness", event.a)
        return ([NodesSuspected(now, (event.a,))] if known == ALIVE else []), []

    def on_membership_lost(self, state: State, event: Event, now: int) -> Decision:
        return ([NodeWitnessed(now, event.a)] if not state.store.at("node_witness", event.a) else []), []

    def on_sweep(self, state: State, event: Event, now: int) -> Decision:
        """Silence past the lease suspects; a second witness beside it kills."""
        silent = now - self._soft.last_beat(slice(None), now) > LEASE
        if not silent.any():
            return [], []
        out: Decision = ([], [])
        which = np.flatnonzero(silent)
        liveness = state.store.gather("node_liveness", which)
        witnessed = state.store.gather("node_witness", which) == 1
        late = which[(liveness == ALIVE) & ~witnessed]
        if late.size:
            out[0].append(NodesSuspected(now, tuple(late.tolist())))
        dead = which[(liveness != DEAD) & witnessed].tolist()
        if dead:
            out[0].append(NodesDied(now, tuple(dead)))
            runners = state.store.gather("device_runner", slots_of(dead)).reshape(-1, DEVICES)
            self._vacate(state, now, out, [n for n, r in zip(dead, runners, strict=True) if (r >= 0).any()], dead)
        return out

    def _vacate(self, state: State, now: int, out: Decision, occupied: list[int], gone: list[int]) -> None:
        """Fence what may still run ranks; stall the job when it loses any."""
        for node in occupied:
            if node not in state.job.fencing:
                self._issue(state, now, out, Effect(0, "fence", node, 0))
        if (state.store.gather("device_holder", slots_of(gone)) >= 0).any():
            self._stall(state, now, out)

    def on_device_fault(self, state: State, event: Event, now: int) -> Decision:
        usable = state.store.at("node_service", event.a) in (IN_SERVICE, VALIDATING)
        if not usable or state.store.at("node_liveness", event.a) != ALIVE:
            return [SignalRefused(now, event.kind, 0)], []
        out: Decision = ([DeviceFailed(now, event.a, event.b)], [])
        self._vacate(state, now, out, [event.a], [event.a])
        return out

    def on_rank_exited(self, state: State, event: Event, now: int) -> Decision:
        """`a` is the rank, `b` the device slot: an exit somewhere else than the table says is an old life's."""
        if state.store.at("device_holder", event.b) != event.a or state.store.at("rank_state", event.a) >= EXITED:
            return [SignalRefused(now, event.kind, 0)], []
        out: Decision = ([RankExited(now, event.a)], [])
        self._stall(state, now, out)
        return out

    def on_fenced(self, state: State, event: Event, now: int) -> Decision:
        return ([EffectDone(now, event.effect)] if event.effect in state.effects else []), []

    def on_repaired(self, state: State, event: Event, now: int) -> Decision:
        if event.a in state.job.fencing or state.store.at("node_service", event.a) == IN_SERVICE:
            return [SignalRefused(now, event.kind, 0)], []
        older = [i for i, e in state.effects.items() if e.kind == "validate" and e.target == event.a]
        out: Decision = ([*[EffectDone(now, i) for i in older], NodeServiceChanged(now, event.a, VALIDATING)], [])
        self._issue(state, now, out, Effect(0, "validate", event.a, 0))
        return out

    def on_validated(self, state: State, event: Event, now: int) -> Decision:
        if event.effect not in state.effects:
            return [SignalRefused(now, event.kind, 0)], []
        out: Decision = ([EffectDone(now, event.effect)], [])
        alive = state.store.at("node_liveness", event.a) == ALIVE
        if alive and state.store.at("node_service", event.a) == VALIDATING:
            out[0].append(NodeServiceChanged(now, event.a, IN_SERVICE))
        return out

    def on_started(self, state: State, event: Event, now: int) -> Decision:
        if event.a not in state.job.starting:
            return [SignalRefused(now, event.kind, event.generation)], []
        return [EffectDone(now, event.effect), RanksStarted(now, event.a)], []

    def on_joined(self, state: State, event: Event, now: int) -> Decision:
        return [RanksJoined(now, event.a)], []

    def on_restored(self, state: State, event: Event, now: int) -> Decision:
        if state.job.state != RESTORING:
            return [SignalRefused(now, event.kind, event.generation)], []
        records: list[Record] = [EffectDone(now, event.effect), JobMoved(now, RUNNING, PRODUCTIVE)]
        return records, [Effect(0, "resume", state.job.restore_step, event.generation)]

    def on_checkpoint(self, state: State, event: Event, now: int) -> Decision:
        if state.job.state != RUNNING:
            return [SignalRefused(now, event.kind, event.generation)], []
        return [CheckpointCommitted(now, event.a, event.generation)], []

    def on_wake(self, state: State, event: Event, now: int) -> Decision:
        """A deadline has come; the settle at the end of the batch looks at it."""
        return [], []

    def on_settle(self, state: State, event: Event, now: int) -> Decision:
        """Ends every batch: what follows from the state as a whole and not from one event."""
        job = state.job
        if job.state != RECOVERING or job.fencing or now < job.decide_at:
            return [], []
        if job.homeless or job.exited:
            return self._open(state, now)
        if job.joined == (1 << JOIN_BATCHES) - 1 and not job.starting:
            out: Decision = ([JobMoved(now, RESTORING, CHECKPOINT_RESTORE)], [])
            self._issue(state, now, out, Effect(0, "restore", 0, job.generation))
            return out
        return [], []

    def _open(self, state: State, now: int) -> Decision:
        """Place homeless ranks on whole free nodes, nearest rack first, and open the next generation."""
        job, store = state.job, state.store
        need = len(job.homeless) // DEVICES
        chosen: tuple[int, ...] = ()
        if need:
            usable = (store.column("node_service") == IN_SERVICE) & (store.column("node_liveness") == ALIVE)
            nodes = np.flatnonzero(usable)
            free = nodes[store.gather("device_holder", nodes * DEVICES) < 0]
            if free.size < need:
                reason = f"needs {need} healthy nodes, {free.size} free"
                return ([JobBlocked(now, reason)] if reason != job.blocker else []), []
            home = state.rack[store.at("rank_node", job.homeless[0])]
            order = np.argsort(np.abs(state.rack[free].astype(np.int64) - int(home)), kind="stable")
            chosen = tuple(free[order[:need]].tolist())
        number, restore = job.generation + 1, state.checkpoints[-1]
        wasted = max(0, job.progress - restore) * STEP * state.ledger.devices[JOB]
        out: Decision = ([GenerationOpened(now, number, restore, job.homeless, chosen, job.exited, wasted)], [])
        starts: dict[int, tuple[int, ...]] = {}
        for node in {store.at("rank_node", rank): None for rank in job.exited}:
            holders = store.gather("device_holder", slots_on(node)).tolist()
            starts[node] = tuple(rank if rank in job.exited else -1 for rank in holders)
        for node in sorted(job.starting):
            starts[node] = tuple(store.gather("device_holder", slots_on(node)).tolist())
        for i, node in enumerate(chosen):
            starts[node] = job.homeless[i * DEVICES : (i + 1) * DEVICES]
        for node, ranks in starts.items():
            self._issue(state, now, out, Effect(0, "start", node, number, ranks))
        out[1].append(Effect(0, "announce", 0, number))
        return out

    # -- folds

    def _account(self, state: State, at: int, slots: Array | slice, account: int) -> None:
        gathered = state.store.gather("device_account", slots)
        before = np.bincount(gathered, minlength=JOB + 1)
        state.ledger = ledger = state.ledger.advanced(at, state.job.phase)
        devices = [n - int(b) for n, b in zip(ledger.devices, before, strict=True)]
        devices[account] += len(gathered)
        state.ledger = Ledger(ledger.at, ledger.totals, tuple(devices))
        state.store.put("device_account", slots, account)

    def _evict(self, state: State, at: int, nodes: Sequence[int]) -> None:
        """Take nodes out of the rank table; what may still run there is left to the fence."""
        store, slots = state.store, slots_of(nodes)
        holders = store.gather("device_holder", slots)
        lost = tuple(holders[holders >= 0].tolist())
        self._account(state, at, slots, OUT)
        if lost:
            store.put("rank_state", list(lost), LOST)
            store.put("device_holder", slots, -1)
            job = state.job
            state.job = replace(job, homeless=job.homeless + lost, starting=job.starting.difference(nodes),
                                exited=tuple(r for r in job.exited if r not in lost))  # fmt: skip

    def fold_NodesSuspected(self, state: State, r: NodesSuspected) -> None:
        state.store.put("node_liveness", list(r.nodes), SUSPECT)

    def fold_NodeWitnessed(self, state: State, r: NodeWitnessed) -> None:
        state.store.put("node_witness", r.node, 1)

    def fold_NodesDied(self, state: State, r: NodesDied) -> None:
        state.store.put("node_liveness", list(r.nodes), DEAD)
        state.store.put("node_service", list(r.nodes), OUT_OF_SERVICE)
        self._evict(state, r.at, r.nodes)

    def fold_DeviceFailed(self, state: State, r: DeviceFailed) -> None:
        state.store.put("device_state", r.node * DEVICES + r.device, FAILED)
        state.store.put("node_service", r.node, DRAINING)
        self._evict(state, r.at, (r.node,))

    def fold_RankExited(self, state: State, r: RankExited) -> None:
        store = state.store
        store.put("rank_state", r.rank, EXITED)
        store.put("device_runner", store.at("rank_node", r.rank) * DEVICES + store.at("rank_device", r.rank), -1)
        state.job = replace(state.job, exited=(*state.job.exited, r.rank))

    def fold_NodeServiceChanged(self, state: State, r: NodeServiceChanged) -> None:
        state.store.put("node_service", r.node, r.service)
        slots = slots_on(r.node)
        if r.service == VALIDATING:
            state.store.put("node_liveness", r.node, ALIVE)
            state.store.put("node_witness", r.node, 0)
            state.store.put("device_state", slots, HEALTHY)
        else:
            self._account(state, r.at, slots, SPARE)

    def fold_JobStalled(self, state: State, r: JobStalled) -> None:
        job = state.job
        ledger = state.ledger.advanced(r.at, job.phase)
        if job.state == RUNNING:
            ledger = ledger.moved(PRODUCTIVE, DETECTION, r.silent_ns * ledger.devices[JOB])
        state.ledger = ledger
        state.job = replace(job, state=RECOVERING, phase=RECOVERY, progress=r.progress, decide_at=r.decide_at)

    def fold_JobBlocked(self, state: State, r: JobBlocked) -> None:
        state.ledger = state.ledger.advanced(r.at, state.job.phase)
        state.job = replace(state.job, blocker=r.reason, phase=QUEUED)

    def fold_GenerationOpened(self, state: State, r: GenerationOpened) -> None:
        store, job, slots = state.store, state.job, slots_of(r.nodes)
        starting = job.starting.union(r.nodes)
        store.put("rank_state", slice(None), PAUSED)
        for node in sorted(job.starting):
            store.put("rank_state", store.gather("device_holder", slots_on(node)), STARTING)
        if r.ranks:
            ranks = np.array(r.ranks)
            store.put("rank_node", ranks, slots // DEVICES)
            store.put("rank_device", ranks, slots % DEVICES)
            store.put("rank_state", ranks, STARTING)
            store.put("device_holder", slots, ranks)
            store.put("device_runner", slots, ranks)
            self._account(state, r.at, slots, JOB)
            self._weigh_copies(state, ranks)
        if r.restarts:
            again = list(r.restarts)
            homes = store.gather("rank_node", again)
            store.put("rank_state", again, STARTING)
            store.put("device_runner", homes.astype(np.int64) * DEVICES + store.gather("rank_device", again), again)
            starting = starting.union(homes.tolist())
        table = Generation(state.table.base_number, state.table.base_node,
                           (*state.table.patches, Patch(r.number, r.ranks, r.nodes)))  # fmt: skip
        if len(table.patches) > PATCHES_PER_BASE:
            table = Generation(r.number, store.column("rank_node").copy(), ())
        state.table = table
        state.effects = {i: e for i, e in state.effects.items() if not e.generation}  # older attempts expire
        state.ledger = state.ledger.advanced(r.at, job.phase).moved(PRODUCTIVE, WASTED_PROGRESS, r.wasted_ns)
        state.job = replace(job, phase=RECOVERY, generation=r.number, restore_step=r.restore_step, blocker="",
                            progress=r.restore_step, homeless=(), exited=(), starting=starting, joined=0)  # fmt: skip

    def _weigh_copies(self, state: State, ranks: Array) -> None:
        """A rank's memory copy is with the rank half the table away; the same rack makes it weak."""
        n = len(state.table.base_node)
        both = np.concatenate((ranks, (ranks - n // 2) % n))
        own = state.store.gather("rank_node", both)
        peer = state.store.gather("rank_node", (both + n // 2) % n)
        state.store.put("rank_weak", both, state.rack[own] == state.rack[peer])

    def fold_RanksStarted(self, state: State, r: RanksStarted) -> None:
        ranks = state.store.gather("device_holder", slots_on(r.node))
        ready = ranks[state.store.gather("rank_state", ranks) == STARTING]
        state.store.put("rank_state", ready, JOINING)
        state.job = replace(state.job, starting=state.job.starting - {r.node})

    def fold_RanksJoined(self, state: State, r: RanksJoined) -> None:
        n = len(state.table.base_node)
        low, high = n * r.batch // JOIN_BATCHES, n * (r.batch + 1) // JOIN_BATCHES
        was = state.store.gather("rank_state", slice(low, high))
        state.store.put("rank_state", slice(low, high), np.where(was == PAUSED, np.uint8(JOINING), was))
        state.job = replace(state.job, joined=state.job.joined | 1 << r.batch)

    def fold_JobMoved(self, state: State, r: JobMoved) -> None:
        state.store.put("rank_state", slice(None), r.state)
        state.ledger = state.ledger.advanced(r.at, state.job.phase)
        state.job = replace(state.job, state=r.state, phase=r.phase)

    def fold_CheckpointCommitted(self, state: State, r: CheckpointCommitted) -> None:
        state.checkpoints = (*state.checkpoints[1 - CHECKPOINTS_KEPT :], r.step)

    def fold_EffectIssued(self, state: State, r: EffectIssued) -> None:
        state.effects[r.effect] = Effect(r.effect, r.kind, r.target, r.generation)
        state.next_effect = r.effect + 1
        if r.kind == "fence":
            state.job = replace(state.job, fencing=state.job.fencing | {r.target})

    def fold_EffectDone(self, state: State, r: EffectDone) -> None:
        effect = state.effects.pop(r.effect)
        if effect.kind == "fence":
            state.store.put("device_runner", slots_on(effect.target), -1)
            state.job = replace(state.job, fencing=state.job.fencing - {effect.target})
            if state.store.at("node_service", effect.target) == DRAINING:
                state.store.put("node_service", effect.target, QUARANTINED)

    def fold_SignalRefused(self, state: State, r: SignalRefused) -> None:
        """Kept for the audit; changes nothing."""


# ---------------------------------------------------------------- invariants


class Violation(Exception):
    """An invariant does not hold; the message says which and where."""


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise Violation(rule)


def check_common(state: State, records: Sequence[Record], before: int) -> None:
    """The part that costs the same in both checks; `before` is the generation before this turn."""
    job, ledger = state.job, state.ledger
    _require(job.generation >= before, "S4 generations only grow")
    _require(job.state != RESTORING or job.restore_step in state.checkpoints, "S5 restore point was deleted")
    _require(sum(ledger.totals) == ledger.at * sum(ledger.devices), "S12 ledger does not sum to time x devices")
    _require(not state.effects or max(state.effects) < state.next_effect, "S7 effect without a record")
    for r in records:
        if isinstance(r, GenerationOpened):
            _require(r.number == before + 1, "S4 one generation at a time")
            _require(r.restore_step in state.checkpoints, "S5 not a restore point")
            nodes = list(r.nodes)
            placed_ok = (state.store.gather("node_liveness", nodes or [0]) == ALIVE) & (
                state.store.gather("node_service", nodes or [0]) == IN_SERVICE
            )
            _require(not nodes or bool(placed_ok.all()), "S2 placed on a node that takes no work")


def _check_slots(state: State, slots: Array) -> None:
    """S1: what may run somewhere is what the table says, or a lost rank whose fence is still open."""
    store = state.store
    runner, holder = store.gather("device_runner", slots), store.gather("device_holder", slots)
    for slot in slots[(runner >= 0) & (runner != holder)].tolist():
        _require(slot // DEVICES in state.job.fencing, f"S1 slot {slot} may run a rank that moved without a fence")
    held = holder >= 0
    ranks = holder[held]
    at = store.gather("rank_node", ranks).astype(np.int64) * DEVICES + store.gather("rank_device", ranks)
    _require(bool((at == slots[held]).all()), "S1 table and devices disagree")
    _require(bool((store.gather("node_service", slots[held] // DEVICES) == IN_SERVICE).all()), "S2 rank out of service")


def _check_copies(state: State, ranks: Array) -> None:
    n = len(state.table.base_node)
    own, peer = (state.store.gather("rank_node", (ranks + k) % n) for k in (0, n // 2))
    weak = state.store.gather("rank_weak", ranks) == 1
    _require(bool((weak == (state.rack[own] == state.rack[peer])).all()), "S8 weak memory copy not shown")


def check_incremental(state: State, records: Sequence[Record], before: int) -> None:
    """Only what the records of this turn touched."""
    check_common(state, records, before)
    nodes: set[int] = set()
    for r in records:
        match r:
            case NodesDied() | NodesSuspected():
                nodes.update(r.nodes)
            case DeviceFailed() | NodeServiceChanged() | RanksStarted():
                nodes.add(r.node)
            case GenerationOpened():
                nodes.update(r.nodes)
                if r.ranks:
                    n = len(state.table.base_node)
                    ranks = np.array(r.ranks)
                    _check_copies(state, np.concatenate((ranks, (ranks - n // 2) % n)))
            case _:
                pass
    if nodes:
        _check_slots(state, slots_of(sorted(nodes)))


def check_full(state: State, records: Sequence[Record], before: int) -> None:
    """Every column, and the redundancies that the incremental check trusts."""
    check_common(state, records, before)
    store, job = state.store, state.job
    n, devices = len(state.table.base_node), sum(state.ledger.devices)
    runner = store.column("device_runner")
    _require(int(np.bincount(runner[runner >= 0], minlength=1).max()) <= 1, "S1 a rank may run in two places")
    _check_slots(state, np.arange(devices))
    _check_copies(state, np.arange(n))
    counts = np.bincount(store.column("device_account"), minlength=JOB + 1)
    _require(tuple(counts.tolist()) == state.ledger.devices, "S12 device accounts and counts disagree")
    states = np.bincount(store.column("rank_state"), minlength=8)
    _require(
        int(states[LOST]) == len(job.homeless) and int(states[EXITED]) == len(job.exited), "L1 lost ranks forgotten"
    )
    _require(job.state != RUNNING or int(states[RUNNING]) == n, "S1 a running job with ranks that do not run")
    table = state.table.base_node.copy()
    for patch in state.table.patches:
        table[list(patch.ranks)] = np.repeat(np.array(patch.nodes, np.int32), DEVICES)
    _require(bool((table == store.column("rank_node")).all()), "S4 base and patches do not give the table")


# ---------------------------------------------------------------- engine


class Journal:
    """In memory; the digest runs over the encoded records in order."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self._hash = hashlib.sha256()

    def append(self, records: Sequence[Record]) -> None:
        bodies = [encode(r) for r in records]
        self._hash.update(b"".join(bodies))
        self.bodies += bodies

    def digest(self) -> str:
        return self._hash.hexdigest()


class Engine:
    """The turn, in the two forms under comparison. Journal first, effects last, in both."""

    def __init__(self, machine: Machine, state: State, journal: Journal, submit: Callable[[Effect], None]) -> None:
        self.machine, self.state, self.journal, self._submit = machine, state, journal, submit
        self.fork_ns: list[int] = []

    def turn_fork(self, events: Sequence[Event], now: int) -> list[Record]:
        """Step and apply on a working copy, append everything, publish the copy."""
        step, apply = self.machine.step, self.machine.apply
        begin = perf_counter_ns()
        working = self.state.fork()
        forked = perf_counter_ns() - begin
        records: list[Record] = []
        effects: list[Effect] = []
        for event in events:
            decided, wanted = step(working, event, now)
            for record in decided:
                apply(working, record)
            records += decided
            effects += wanted
        if records:
            self.journal.append(records)
            self.state = working
        self.fork_ns.append(forked + working.store.copy_ns)
        for effect in effects:
            self._submit(effect)
        return records

    def turn_inplace(self, events: Sequence[Event], now: int) -> list[Record]:
        """One event at a time: step, append, apply; each append would be a transaction of its own."""
        every: list[Record] = []
        for event in events:
            records, effects = self.machine.step(self.state, event, now)
            if records:
                self.journal.append(records)
            for record in records:
                self.machine.apply(self.state, record)
            for effect in effects:
                self._submit(effect)
            every += records
        return every


# ---------------------------------------------------------------- world


class World:
    """Truth, latencies and faults. Nothing here is an event per beat or per step: both are closed forms."""

    def __init__(self, nodes: int, spares: int, days: float, seed: int, dense: bool) -> None:
        self.random, self.end, self._dense = random.Random(seed), int(days * DAY), dense
        self._heap: list[tuple[int, int, Event | None, Callable[[], None] | None]] = []
        self._seq = 0
        self.faults: Counter[str] = Counter()
        self.now = 0
        n_ranks = (nodes - spares) * DEVICES
        phases = np.random.default_rng(seed).integers(0, BEAT, nodes)
        self._phase: Array = phases.astype(np.int64)
        self._silent_from: Array = np.full(nodes, NEVER, np.int64)
        self._down = np.zeros(nodes, bool)
        self._slot_rank: Array = np.where(np.arange(nodes * DEVICES) < n_ranks, np.arange(nodes * DEVICES), -1)
        self._slot_of: Array = np.arange(n_ranks)  # where each rank lives; -1 when it does not
        self._generation = 1
        self._run, self._run_base, self._run_from, self._run_until = 0, 0, 0, NEVER
        self._nodes, self._ranks = nodes, n_ranks
        self._mu = math.log(REPAIR_MEDIAN_H)
        self._sigma = math.sqrt(2 * math.log(REPAIR_MEAN_H / REPAIR_MEDIAN_H))
        self._arrivals("node", NODE_FAULTS * nodes / 1000, self._node_fault)
        self._arrivals("device", DEVICE_FAULTS * nodes / 1000, self._device_fault)
        self._arrivals("crash", CRASHES * nodes / 1000, self._crash)
        self._arrivals("rack", 1 / RACK_FAULT_DAYS, self._rack_fault)
        self._checkpoint_later()
        if dense:
            self._sweeps()

    # -- soft state port

    def last_beat(self, nodes: slice, now: int) -> Array:
        phase = self._phase[nodes]
        seen = np.minimum(self._silent_from[nodes], now)
        seen -= phase
        seen -= seen % BEAT
        seen += phase
        return seen

    def step(self, now: int) -> tuple[int, int]:
        done = max(0, min(now, self._run_until) - self._run_from) // STEP
        return self._run_base + done, self._run_from + done * STEP

    # -- clock

    def at(self, when: int, event: Event | None = None, call: Callable[[], None] | None = None) -> None:
        self._seq += 1
        heapq.heappush(self._heap, (when, self._seq, event, call))

    def batches(self) -> Iterator[tuple[int, list[Event]]]:
        """What one turn drains: every event that arrives inside one drain period, with the period's end as time."""
        heap = self._heap
        while heap and heap[0][0] <= self.end:
            close = -(-heap[0][0] // DRAIN) * DRAIN
            events: list[Event] = []
            while heap and heap[0][0] <= close:
                self.now, _, event, call = heapq.heappop(heap)
                if call is not None:
                    call()
                if event is not None and not (event.kind == "sweep" and events and events[-1] == event):
                    events.append(event)
            if events:
                self.now = close
                yield close, events

    def _arrivals(self, name: str, per_day: float, fault: Callable[[], None]) -> None:
        def next_one() -> None:
            self.at(self.now + int(self.random.expovariate(per_day) * DAY), call=occur)

        def occur() -> None:
            fault()
            next_one()

        next_one()

    def _sweep_after(self, when: int) -> None:
        if not self._dense:
            self.at(-(-when // SWEEP) * SWEEP, Event("sweep"))

    def _sweeps(self) -> None:
        self.at(self.now + SWEEP, Event("sweep"), self._sweeps)

    # -- faults

    def _stop(self) -> None:
        self._run_until = min(self._run_until, self.now)

    def _kill(self, slots: Array | slice) -> None:
        ranks = self._slot_rank[slots]
        self._slot_of[ranks[ranks >= 0]] = -1
        self._slot_rank[slots] = -1

    def _repair_time(self) -> int:
        return int(max(REPAIR_MIN_H, self.random.lognormvariate(self._mu, self._sigma)) * HOUR)

    def _lose_node(self, node: int, repair: int) -> None:
        """Silence; a zombie's ranks stay alive until they are fenced, but the job stops all the same."""
        draw, now, slots = self.random.random, self.now, slots_on(node)
        self._down[node] = True
        self._silent_from[node] = now
        self._sweep_after(int(self.last_beat(slice(node, node + 1), now)[0]) + LEASE + 1)
        if (self._slot_rank[slots] >= 0).any():
            self._stop()
        if draw() >= ZOMBIE_SHARE:
            self._kill(slots)
        if draw() < SESSION_RESET_SHARE:
            self.at(now + int((0.01 + 0.2 * draw()) * S), Event("session_lost", node))
        raylet = now + int((3 + 4 * draw()) * S)
        self.at(raylet, Event("membership_lost", node))
        self._sweep_after(raylet)
        self.at(now + repair, call=lambda: self._repaired(node))

    def _repaired(self, node: int) -> None:
        self._kill(slots_on(node))
        self._down[node], self._silent_from[node] = False, NEVER
        self.at(self.now + S, Event("repaired", node))

    def _node_fault(self) -> None:
        node = self.random.randrange(self._nodes)
        if not self._down[node]:
            self.faults["node"] += 1
            self._lose_node(node, self._repair_time())

    def _rack_fault(self) -> None:
        rack, repair = self.random.randrange(-(-self._nodes // RACK_NODES)), self._repair_time()
        self.faults["rack"] += 1
        for node in range(rack * RACK_NODES, min((rack + 1) * RACK_NODES, self._nodes)):
            if not self._down[node]:
                self._lose_node(node, repair)

    def _device_fault(self) -> None:
        node = self.random.randrange(self._nodes)
        if not self._down[node]:
            self.faults["accelerator"] += 1
            self._down[node] = True  # no second fault until repaired; the agent still beats
            if (self._slot_rank[slots_on(node)] >= 0).any():
                self._stop()
            self.at(self.now + 100 * MS, Event("device_fault", node, self.random.randrange(DEVICES)))
            self.at(self.now + self._repair_time(), call=lambda: self._repaired(node))

    def _crash(self) -> None:
        rank = self.random.randrange(self._ranks)
        slot = int(self._slot_of[rank])
        if slot >= 0 and not self._down[slot // DEVICES]:
            self.faults["crash"] += 1
            self._stop()
            self._kill(np.array([slot]))
            self.at(self.now + 50 * MS, Event("rank_exited", rank, slot))

    # -- effects

    def submit(self, effect: Effect) -> None:
        """Deliver after a latency; acknowledge after another."""
        draw, now = self.random.uniform, self.now
        match effect.kind:
            case "wake":
                self.at(effect.at, Event("wake"))
            case "fence":
                self.at(now + int(draw(1, 3) * S), call=lambda: self._fence(effect))
            case "validate":
                self.at(now + int(draw(300, 900) * S), call=lambda: self._validate(effect))
            case "start":
                self.at(now + int(draw(3, 15) * S), call=lambda: self._start(effect))
            case "announce":
                self._generation = max(self._generation, effect.generation)
                for batch in range(JOIN_BATCHES):
                    self.at(now + int(draw(0.5, 20) * S), Event("joined", batch, generation=effect.generation))
            case "restore":
                done = Event("restored", generation=effect.generation, effect=effect.id)
                self.at(now + int(draw(10, 30) * S), done)
            case _:
                self._resume(effect)

    def _fence(self, effect: Effect) -> None:
        self._kill(slots_on(effect.target))
        self.at(self.now + 50 * MS, Event("fenced", effect.target, effect=effect.id))

    def _validate(self, effect: Effect) -> None:
        if not self._down[effect.target]:
            self.at(self.now + MS, Event("validated", effect.target, effect=effect.id))

    def _start(self, effect: Effect) -> None:
        """The agent refuses an older generation, and ends an older life on the same device before it starts."""
        node = effect.target
        if self._silent_from[node] != NEVER or effect.generation < self._generation:
            return
        wanted = np.array(effect.ranks)
        slots, ranks = slots_of((node,))[wanted >= 0], wanted[wanted >= 0]
        where = self._slot_of[ranks]
        _require(bool(((where < 0) | (where // DEVICES == node)).all()), "S1 (truth) a rank would live twice")
        self._kill(slots)
        self._slot_rank[slots], self._slot_of[ranks] = ranks, slots
        self.at(self.now + 20 * MS, Event("started", node, generation=effect.generation, effect=effect.id))

    def _resume(self, effect: Effect) -> None:
        self._run += 1
        self._run_base, self._run_from = effect.target, self.now
        whole = bool((self._slot_of >= 0).all()) and not self._down[self._slot_of // DEVICES].any()
        self._run_until = NEVER if whole else self.now
        self._checkpoint_later()

    def _checkpoint_later(self) -> None:
        run, generation = self._run, self._generation

        def save() -> None:
            if run == self._run and self._run_until == NEVER:
                self.at(self.now + MS, Event("checkpoint", self.step(self.now)[0], generation=generation))
                self.at(self.now + SAVE_EVERY, call=save)

        self.at(self.now + SAVE_EVERY, call=save)


# ---------------------------------------------------------------- the run


class FullDisk(Journal):
    """A journal whose append fails."""

    def append(self, records: Sequence[Record]) -> None:
        raise OSError("no space left on device")


@dataclass(frozen=True, slots=True)
class Options:
    """One run of the benchmark."""

    days: float
    nodes: int
    spares: int
    seed: int
    representation: str
    turn: str
    dense: bool = False


def percentiles(samples_ns: Sequence[int]) -> dict[str, float]:
    """Median, p99 and max in microseconds."""
    us = np.array(samples_ns or [0]) / 1000
    return {"median": float(np.median(us)), "p99": float(np.percentile(us, 99)), "max": float(us.max())}


def simulate(options: Options) -> dict[str, Any]:
    """Run the world against the machine; returns every figure of the run."""
    began = perf_counter()
    world = World(options.nodes, options.spares, options.days, options.seed, options.dense)
    state = genesis(options.nodes, options.spares, options.representation)
    engine = Engine(Machine(world), state, Journal(), world.submit)
    turn = engine.turn_fork if options.turn == "fork" else engine.turn_inplace
    settle = Event("settle")
    turn_ns: list[int] = []
    check_ns: dict[bool, list[int]] = {False: [], True: []}
    events, blocked, batch_max = 0, 0, 0
    kinds: Counter[str] = Counter()
    for now, batch in world.batches():
        before, phase, since = engine.state.job.generation, engine.state.job.phase, engine.state.ledger.at
        t0 = perf_counter_ns()
        records = turn([*batch, settle], now)
        t1 = perf_counter_ns()
        full = len(turn_ns) % FULL_CHECK_EVERY == 0
        (check_full if full else check_incremental)(engine.state, records, before)
        check_ns[full].append(perf_counter_ns() - t1)
        turn_ns.append(t1 - t0)
        events += len(batch)
        batch_max = max(batch_max, len(batch))
        kinds.update(type(r).__name__ for r in records)
        blocked += (engine.state.ledger.at - since) * (phase == QUEUED)
    seconds = perf_counter() - began
    ledger = engine.state.ledger
    share = {b: round(100 * t / max(1, sum(ledger.totals)), 3) for b, t in zip(BUCKETS, ledger.totals, strict=True)}
    result = {
        "seconds": seconds, "turns": len(turn_ns), "events": events, "faults": dict(sorted(world.faults.items())),
        "turn_us": percentiles(turn_ns), "fork_us": percentiles(engine.fork_ns),
        "turn_total_s": sum(turn_ns) / 1e9, "fork_total_s": sum(engine.fork_ns) / 1e9,
        "check_incremental_us": percentiles(check_ns[False]), "check_full_us": percentiles(check_ns[True]),
        "check_total_s": sum(map(sum, check_ns.values())) / 1e9, "full_checks": len(check_ns[True]),
        "records": len(engine.journal.bodies), "record_kinds": dict(kinds.most_common()),
        "journal_mb": sum(map(len, engine.journal.bodies)) / 1e6, "generations": engine.state.job.generation,
        "refused": kinds["SignalRefused"], "largest_batch": batch_max, "open_effects": len(engine.state.effects),
        "blocked_share": blocked / max(1, ledger.at), "ledger_percent": share, "blocker": engine.state.job.blocker,
        "trace": engine.journal.digest(), "state": engine.state.digest(),
        "peak_rss_mb": peak_rss_mb(),
    }  # fmt: skip
    result.update(after_checks(engine, options, world))
    return result


def after_checks(engine: Engine, options: Options, world: World) -> dict[str, Any]:
    """Replay gives the same state; a failed append leaves it untouched; cost of a burst of 1,024 events."""
    began = perf_counter()
    replayed = genesis(options.nodes, options.spares, options.representation)
    for body in engine.journal.bodies:
        engine.machine.apply(replayed, decode(body))
    replay_s = perf_counter() - began
    _require(replayed.digest() == engine.state.digest(), "S6 replay gives another state")
    alive = np.flatnonzero(engine.state.store.column("node_liveness") == ALIVE)[:1024].tolist()
    burst = [Event("session_lost", node) for node in alive]
    broken = Engine(engine.machine, replayed, FullDisk(), world.submit)
    for turn in (broken.turn_fork, broken.turn_inplace):
        with contextlib.suppress(OSError):
            turn(burst, world.now)
        _require(broken.state.digest() == engine.state.digest(), "a failed append changed the state")
    costs = []
    for _ in range(7):
        spare = Engine(engine.machine, replayed.fork(), Journal(), world.submit)
        turn = spare.turn_fork if options.turn == "fork" else spare.turn_inplace
        t0 = perf_counter_ns()
        turn(burst, world.now)
        costs.append((perf_counter_ns() - t0) // len(burst))
    return {"replay_s": replay_s, "burst_us_per_event": float(np.median(costs)) / 1000}


def peak_rss_mb() -> float:
    """High-water mark of this program alone; `ru_maxrss` would start at the parent's, since exec keeps it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def child(options: Options) -> dict[str, Any]:
    """The same run in a fresh process, so that memory and hash seed are its own."""
    argv = [sys.executable, __file__, "--json", "--days", str(options.days), "--nodes", str(options.nodes),
            "--spares", str(options.spares), "--seed", str(options.seed), "--turn", options.turn,
            "--representation", options.representation]  # fmt: skip
    done = subprocess.run(argv + ["--dense"] * options.dense, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def machine_facts() -> dict[str, Any]:
    """What the figures were measured on."""
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cores": os.cpu_count(), "ram_gib": round(ram, 1), "python": platform.python_version(),
            "numpy": np.__version__}  # fmt: skip


def commit() -> str:
    """The commit the tree is at, or "none" before the first."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False,
                          cwd=Path(__file__).parent)  # fmt: skip
    return done.stdout.strip() if done.returncode == 0 else "none"


def row(label: str, r: dict[str, Any]) -> str:
    """One line of the comparison table."""
    t, f, i, c = (r[k] for k in ("turn_us", "fork_us", "check_incremental_us", "check_full_us"))
    return (f"{label:24} {r['seconds']:6.2f} {r['turns']:7,} {r['events']:7,} {sum(r['faults'].values()):6,} "
            f"{r['records']:8,} {t['median']:7.0f} {t['p99']:7.0f} {t['max']:8.0f} {f['median']:6.1f} {f['p99']:7.1f} "
            f"{i['median']:6.1f} {c['median']:8.0f} {r['burst_us_per_event']:7.1f} {r['replay_s']:6.2f} "
            f"{r['peak_rss_mb']:5.0f} {r['trace'][:12]}")  # fmt: skip


HEADER = (
    f"{'':24} {'total':>6} {'':7} {'':7} {'':6} {'':8} {'turn us':>24} {'fork us':>14} {'check us':>15} "
    f"{'burst':>7} {'replay':>6} {'RSS':>5}\n"
    f"{'run':24} {'s':>6} {'turns':>7} {'events':>7} {'faults':>6} {'records':>8} {'median':>7} {'p99':>7} {'max':>8} "
    f"{'median':>6} {'p99':>7} {'incr.':>6} {'full':>8} {'us/ev':>7} {'s':>6} {'MB':>5} trace"
)


def figures(main: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of the main run in the form all benches use."""

    def one(
        name: str, value: float, unit: str, n: int, *, spread: Any = None, goal: float | None = None
    ) -> dict[str, Any]:
        return {"id": f"core-spike.{name}", "value": round(value, 3), "unit": unit, "n": n, "spread": spread,
                "must": None, "goal": goal, "peers": {}}  # fmt: skip

    timed = [
        one(name, main[name]["median"], "us", main["turns"], spread=main[name])
        for name in ("turn_us", "fork_us", "check_incremental_us")
    ]
    return [
        one("total_s", main["seconds"], "s", 1, goal=60.0), *timed,
        one("check_full_us", main["check_full_us"]["median"], "us", main["full_checks"], spread=main["check_full_us"]),
        one("burst_us_per_event", main["burst_us_per_event"], "us", 7),
        one("replay_s", main["replay_s"], "s", 1), one("peak_rss_mb", main["peak_rss_mb"], "MB", 1),
        *[one(k, main[k], "count", 1) for k in ("turns", "events", "records", "generations", "refused")],
        one("faults", sum(main["faults"].values()), "count", 1), one("blocked_share", main["blocked_share"], "1", 1),
    ]  # fmt: skip


def report(options: Options, compare_days: float) -> None:
    """The main run twice, the four combinations on a shorter horizon, the dense sweeps; prints and writes JSON."""
    facts = machine_facts()
    print(f"machine {facts}  commit {commit()}  seed {options.seed}")
    print(f"rates   per 1,000 node-days: node {NODE_FAULTS}, accelerator {DEVICE_FAULTS}, process crash {CRASHES}; "
          f"one rack of {RACK_NODES} nodes per {RACK_FAULT_DAYS:g} days; repair median {REPAIR_MEDIAN_H:g} h, "
          f"mean {REPAIR_MEAN_H:g} h; all simulated")  # fmt: skip
    print(HEADER)
    main = simulate(options)
    print(row(f"{options.days:g} d, {options.spares} spares", main))
    again = child(options)
    _require(again["trace"] == main["trace"] and again["state"] == main["state"], "two runs of one seed differ")
    print(row("  again, new process", again))
    ample = child(replace(options, spares=options.nodes // 10))
    print(row(f"{options.days:g} d, {options.nodes // 10} spares", ample))
    short: dict[str, dict[str, Any]] = {}
    for kind in ("columns", "objects"):
        for turn in ("fork", "inplace"):
            short[f"{kind}, {turn}"] = child(replace(options, days=compare_days, representation=kind, turn=turn))
            print(row(f"{compare_days:g} d, {kind}, {turn}", short[f"{kind}, {turn}"]))
    _require(len({r["trace"] + r["state"] for r in short.values()}) == 1, "representations or turns differ")
    dense_days = min(0.5, options.days)
    dense, sparse = (child(replace(options, days=dense_days, dense=d)) for d in (True, False))
    print(row(f"{dense_days:g} d, sweep each 0.5 s", dense))
    _require(dense["trace"] == sparse["trace"], "skipped sweeps were not empty")
    print(f"\nfaults {main['faults']}; generations {main['generations']}; stale signals refused {main['refused']}; "
          f"largest batch {main['largest_batch']}; open effects at end {main['open_effects']}; "
          f"journal {main['journal_mb']:.1f} MB")  # fmt: skip
    for label, r in (("main", main), ("ample", ample)):
        print(f"{label:6} turns {r['turn_total_s']:.1f} s (fork {r['fork_total_s']:.2f} s), checks "
              f"{r['check_total_s']:.1f} s; blocked {100 * r['blocked_share']:.1f} % of the time, "
              f"now: {r['blocker'] or 'nothing'}; ledger % {r['ledger_percent']}")  # fmt: skip
    print(f"same seed, new process: same trace {main['trace']}")
    print("replay of the encoded journal gives the same state; a failed append changes nothing, in both turns")
    print("columns and objects, fork and in place: same trace and state; sweeping every 0.5 s: same trace")
    body = {"machine": facts, "commit": commit(), "seed": options.seed,
            "simulated": ["time", "nodes", "ranks", "faults", "repairs", "latencies", "steps", "beats", "journal"],
            "figures": figures(main),
            "runs": {"main": main, "ample_spares": ample, **short, "dense": dense}}  # fmt: skip
    target = Path(__file__).parents[2] / ".phalanx" / "bench" / "core-spike.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(body, indent=1) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=float, default=54.0)
    parser.add_argument("--nodes", type=int, default=6250)
    parser.add_argument("--spares", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--representation", choices=("columns", "objects"), default="columns")
    parser.add_argument("--turn", choices=("fork", "inplace"), default="fork")
    parser.add_argument("--compare-days", type=float, default=0.5, help="horizon of the four-way comparison")
    parser.add_argument("--dense", action="store_true", help="sweep every 0.5 s, also when nothing can be late")
    parser.add_argument("--json", action="store_true", help="one run, figures as JSON, no comparison")
    parser.add_argument("--profile", action="store_true", help="one run under cProfile")
    args = parser.parse_args()
    options = Options(args.days, args.nodes, args.spares, args.seed, args.representation, args.turn, args.dense)
    if args.profile:
        profiler = cProfile.Profile()
        profiler.runcall(simulate, options)
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
    elif args.json:
        print(json.dumps(simulate(options)))
    else:
        report(options, args.compare_days)


if __name__ == "__main__":
    main()
