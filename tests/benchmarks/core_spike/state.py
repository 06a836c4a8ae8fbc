"""Everything that replay rebuilds, and its digest."""

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from tests.benchmarks.core_spike.codes import BUCKETS, DEVICES, JOB, OUT, PRODUCTIVE, RACK_NODES, RUNNING, SPARE
from tests.benchmarks.core_spike.records import Effect
from tests.benchmarks.core_spike.store import Array, Columns, Objects, Store


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

    def fork(self) -> "State":
        return State(self.store.fork(), self.rack, self.job, self.table, self.ledger, dict(self.effects),
                     self.checkpoints, self.next_effect)  # fmt: skip

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
    return State(store, rack, job, Generation(1, base, ()), Ledger(0, (0,) * len(BUCKETS), counts), {}, (0,), 1)


def slots_of(nodes: Sequence[int]) -> Array:
    """Device ids of whole nodes."""
    return (np.asarray(nodes, np.int64)[:, None] * DEVICES + np.arange(DEVICES)).ravel()


def slots_on(node: int) -> slice:
    """Device ids of one whole node, as a slice: no index array to build."""
    return slice(node * DEVICES, (node + 1) * DEVICES)
