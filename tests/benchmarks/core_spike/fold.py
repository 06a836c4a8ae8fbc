"""`apply` is the only mutation of a state, the same in life and in replay; one function per type of record."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tests.benchmarks.core_spike.codes import (
    ALIVE,
    DEAD,
    DETECTION,
    DEVICES,
    DRAINING,
    EXITED,
    FAILED,
    HEALTHY,
    JOB,
    JOIN_BATCHES,
    JOINING,
    LOST,
    OUT,
    OUT_OF_SERVICE,
    PAUSED,
    PRODUCTIVE,
    QUARANTINED,
    QUEUED,
    RECOVERING,
    RECOVERY,
    RUNNING,
    SPARE,
    STARTING,
    SUSPECT,
    VALIDATING,
    WASTED_PROGRESS,
)
from tests.benchmarks.core_spike.records import (
    CheckpointCommitted,
    DeviceFailed,
    Effect,
    EffectDone,
    EffectIssued,
    GenerationOpened,
    JobBlocked,
    JobMoved,
    JobStalled,
    NodesDied,
    NodeServiceChanged,
    NodesSuspected,
    NodeWitnessed,
    RankExited,
    RanksJoined,
    RanksStarted,
    Record,
    SignalRefused,
)
from tests.benchmarks.core_spike.state import Generation, Ledger, Patch, State, slots_of, slots_on
from tests.benchmarks.core_spike.store import Array

PATCHES_PER_BASE = 64
CHECKPOINTS_KEPT = 8


def _account(state: State, at: int, slots: Array | slice, account: int) -> None:
    gathered = state.store.gather("device_account", slots)
    before = np.bincount(gathered, minlength=JOB + 1)
    state.ledger = ledger = state.ledger.advanced(at, state.job.phase)
    devices = [n - int(b) for n, b in zip(ledger.devices, before, strict=True)]
    devices[account] += len(gathered)
    state.ledger = Ledger(ledger.at, ledger.totals, tuple(devices))
    state.store.put("device_account", slots, account)


def _evict(state: State, at: int, nodes: Sequence[int]) -> None:
    """Take nodes out of the rank table; what may still run there is left to the fence."""
    store, slots = state.store, slots_of(nodes)
    holders = store.gather("device_holder", slots)
    lost = tuple(holders[holders >= 0].tolist())
    _account(state, at, slots, OUT)
    if lost:
        store.put("rank_state", list(lost), LOST)
        store.put("device_holder", slots, -1)
        job = state.job
        state.job = replace(job, homeless=job.homeless + lost, starting=job.starting.difference(nodes),
                            exited=tuple(r for r in job.exited if r not in lost))  # fmt: skip


def nodes_suspected(state: State, r: NodesSuspected) -> None:
    state.store.put("node_liveness", list(r.nodes), SUSPECT)


def node_witnessed(state: State, r: NodeWitnessed) -> None:
    state.store.put("node_witness", r.node, 1)


def nodes_died(state: State, r: NodesDied) -> None:
    state.store.put("node_liveness", list(r.nodes), DEAD)
    state.store.put("node_service", list(r.nodes), OUT_OF_SERVICE)
    _evict(state, r.at, r.nodes)


def device_failed(state: State, r: DeviceFailed) -> None:
    state.store.put("device_state", r.node * DEVICES + r.device, FAILED)
    state.store.put("node_service", r.node, DRAINING)
    _evict(state, r.at, (r.node,))


def rank_exited(state: State, r: RankExited) -> None:
    store = state.store
    store.put("rank_state", r.rank, EXITED)
    store.put("device_runner", store.at("rank_node", r.rank) * DEVICES + store.at("rank_device", r.rank), -1)
    state.job = replace(state.job, exited=(*state.job.exited, r.rank))


def node_service_changed(state: State, r: NodeServiceChanged) -> None:
    state.store.put("node_service", r.node, r.service)
    slots = slots_on(r.node)
    if r.service == VALIDATING:
        state.store.put("node_liveness", r.node, ALIVE)
        state.store.put("node_witness", r.node, 0)
        state.store.put("device_state", slots, HEALTHY)
    else:
        _account(state, r.at, slots, SPARE)


def job_stalled(state: State, r: JobStalled) -> None:
    job = state.job
    ledger = state.ledger.advanced(r.at, job.phase)
    if job.state == RUNNING:
        ledger = ledger.moved(PRODUCTIVE, DETECTION, r.silent_ns * ledger.devices[JOB])
    state.ledger = ledger
    state.job = replace(job, state=RECOVERING, phase=RECOVERY, progress=r.progress, decide_at=r.decide_at)


def job_blocked(state: State, r: JobBlocked) -> None:
    state.ledger = state.ledger.advanced(r.at, state.job.phase)
    state.job = replace(state.job, blocker=r.reason, phase=QUEUED)


def generation_opened(state: State, r: GenerationOpened) -> None:
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
        _account(state, r.at, slots, JOB)
        _weigh_copies(state, ranks)
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


def _weigh_copies(state: State, ranks: Array) -> None:
    """A rank's memory copy is with the rank half the table away; the same rack makes it weak."""
    n = len(state.table.base_node)
    both = np.concatenate((ranks, (ranks - n // 2) % n))
    own = state.store.gather("rank_node", both)
    peer = state.store.gather("rank_node", (both + n // 2) % n)
    state.store.put("rank_weak", both, state.rack[own] == state.rack[peer])


def ranks_started(state: State, r: RanksStarted) -> None:
    ranks = state.store.gather("device_holder", slots_on(r.node))
    ready = ranks[state.store.gather("rank_state", ranks) == STARTING]
    state.store.put("rank_state", ready, JOINING)
    state.job = replace(state.job, starting=state.job.starting - {r.node})


def ranks_joined(state: State, r: RanksJoined) -> None:
    n = len(state.table.base_node)
    low, high = n * r.batch // JOIN_BATCHES, n * (r.batch + 1) // JOIN_BATCHES
    was = state.store.gather("rank_state", slice(low, high))
    state.store.put("rank_state", slice(low, high), np.where(was == PAUSED, np.uint8(JOINING), was))
    state.job = replace(state.job, joined=state.job.joined | 1 << r.batch)


def job_moved(state: State, r: JobMoved) -> None:
    state.store.put("rank_state", slice(None), r.state)
    state.ledger = state.ledger.advanced(r.at, state.job.phase)
    state.job = replace(state.job, state=r.state, phase=r.phase)


def checkpoint_committed(state: State, r: CheckpointCommitted) -> None:
    state.checkpoints = (*state.checkpoints[1 - CHECKPOINTS_KEPT :], r.step)


def effect_issued(state: State, r: EffectIssued) -> None:
    state.effects[r.effect] = Effect(r.effect, r.kind, r.target, r.generation)
    state.next_effect = r.effect + 1
    if r.kind == "fence":
        state.job = replace(state.job, fencing=state.job.fencing | {r.target})


def effect_done(state: State, r: EffectDone) -> None:
    effect = state.effects.pop(r.effect)
    if effect.kind == "fence":
        state.store.put("device_runner", slots_on(effect.target), -1)
        state.job = replace(state.job, fencing=state.job.fencing - {effect.target})
        if state.store.at("node_service", effect.target) == DRAINING:
            state.store.put("node_service", effect.target, QUARANTINED)


def signal_refused(state: State, r: SignalRefused) -> None:
    """Kept for the audit; changes nothing."""


_FOLDS: dict[type[Record], Callable[[State, Any], None]] = {
    NodesSuspected: nodes_suspected,
    NodeWitnessed: node_witnessed,
    NodesDied: nodes_died,
    DeviceFailed: device_failed,
    RankExited: rank_exited,
    NodeServiceChanged: node_service_changed,
    JobStalled: job_stalled,
    JobBlocked: job_blocked,
    GenerationOpened: generation_opened,
    RanksStarted: ranks_started,
    RanksJoined: ranks_joined,
    JobMoved: job_moved,
    CheckpointCommitted: checkpoint_committed,
    EffectIssued: effect_issued,
    EffectDone: effect_done,
    SignalRefused: signal_refused,
}


def apply(state: State, record: Record) -> None:
    _FOLDS[type(record)](state, record)
