"""Invariants (subsets of S1 S2 S4 S5 S7 S8 S12), for what a turn touched and for the whole state."""

from collections.abc import Sequence

import numpy as np

from tests.benchmarks.core_spike.codes import ALIVE, DEVICES, EXITED, IN_SERVICE, JOB, LOST, RESTORING, RUNNING
from tests.benchmarks.core_spike.records import (
    DeviceFailed,
    GenerationOpened,
    NodesDied,
    NodeServiceChanged,
    NodesSuspected,
    RanksStarted,
    Record,
)
from tests.benchmarks.core_spike.state import State, slots_of
from tests.benchmarks.core_spike.store import Array


class Violation(Exception):
    """An invariant does not hold; the message says which and where."""


def require(holds: bool, rule: str) -> None:
    if not holds:
        raise Violation(rule)


def _check_common(state: State, records: Sequence[Record], before: int) -> None:
    """The part that costs the same in both checks; `before` is the generation before this turn."""
    job, ledger = state.job, state.ledger
    require(job.generation >= before, "S4 generations only grow")
    require(job.state != RESTORING or job.restore_step in state.checkpoints, "S5 restore point was deleted")
    require(sum(ledger.totals) == ledger.at * sum(ledger.devices), "S12 ledger does not sum to time x devices")
    require(not state.effects or max(state.effects) < state.next_effect, "S7 effect without a record")
    for r in records:
        if isinstance(r, GenerationOpened):
            require(r.number == before + 1, "S4 one generation at a time")
            require(r.restore_step in state.checkpoints, "S5 not a restore point")
            nodes = list(r.nodes)
            placed_ok = (state.store.gather("node_liveness", nodes or [0]) == ALIVE) & (
                state.store.gather("node_service", nodes or [0]) == IN_SERVICE
            )
            require(not nodes or bool(placed_ok.all()), "S2 placed on a node that takes no work")


def _check_slots(state: State, slots: Array) -> None:
    """S1: what may run somewhere is what the table says, or a lost rank whose fence is still open."""
    store = state.store
    runner, holder = store.gather("device_runner", slots), store.gather("device_holder", slots)
    for slot in slots[(runner >= 0) & (runner != holder)].tolist():
        require(slot // DEVICES in state.job.fencing, f"S1 slot {slot} may run a rank that moved without a fence")
    held = holder >= 0
    ranks = holder[held]
    at = store.gather("rank_node", ranks).astype(np.int64) * DEVICES + store.gather("rank_device", ranks)
    require(bool((at == slots[held]).all()), "S1 table and devices disagree")
    require(bool((store.gather("node_service", slots[held] // DEVICES) == IN_SERVICE).all()), "S2 rank out of service")


def _check_copies(state: State, ranks: Array) -> None:
    n = len(state.table.base_node)
    own, peer = (state.store.gather("rank_node", (ranks + k) % n) for k in (0, n // 2))
    weak = state.store.gather("rank_weak", ranks) == 1
    require(bool((weak == (state.rack[own] == state.rack[peer])).all()), "S8 weak memory copy not shown")


def check_incremental(state: State, records: Sequence[Record], before: int) -> None:
    """Only what the records of this turn touched."""
    _check_common(state, records, before)
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
    _check_common(state, records, before)
    store, job = state.store, state.job
    n, devices = len(state.table.base_node), sum(state.ledger.devices)
    runner = store.column("device_runner")
    require(int(np.bincount(runner[runner >= 0], minlength=1).max()) <= 1, "S1 a rank may run in two places")
    _check_slots(state, np.arange(devices))
    _check_copies(state, np.arange(n))
    counts = np.bincount(store.column("device_account"), minlength=JOB + 1)
    require(tuple(counts.tolist()) == state.ledger.devices, "S12 device accounts and counts disagree")
    states = np.bincount(store.column("rank_state"), minlength=8)
    require(
        int(states[LOST]) == len(job.homeless) and int(states[EXITED]) == len(job.exited), "L1 lost ranks forgotten"
    )
    require(job.state != RUNNING or int(states[RUNNING]) == n, "S1 a running job with ranks that do not run")
    table = state.table.base_node.copy()
    for patch in state.table.patches:
        table[list(patch.ranks)] = np.repeat(np.array(patch.nodes, np.int32), DEVICES)
    require(bool((table == store.column("rank_node")).all()), "S4 base and patches do not give the table")
