"""The decisions: what an event means in a state, as records and effects."""

from dataclasses import replace
from typing import Protocol

import numpy as np

from tests.benchmarks.core_spike.codes import (
    ALIVE,
    CHECKPOINT_RESTORE,
    DEAD,
    DEVICES,
    EXITED,
    IN_SERVICE,
    JOB,
    JOIN_BATCHES,
    LEASE,
    PRODUCTIVE,
    RECOVERING,
    RESTORING,
    RUNNING,
    STEP,
    VALIDATING,
    S,
)
from tests.benchmarks.core_spike.records import (
    CheckpointCommitted,
    DeviceFailed,
    Effect,
    EffectDone,
    EffectIssued,
    Event,
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
from tests.benchmarks.core_spike.state import State, slots_of, slots_on
from tests.benchmarks.core_spike.store import Array

COLLECT = 2 * S  # a stalled job waits this long for further losses before it decides


class SoftState(Protocol):
    """What is never journalled: beats and steps. Columns in production, closed forms in the simulator."""

    def last_beat(self, nodes: slice, now: int) -> Array: ...
    def step(self, now: int) -> tuple[int, int]:
        """Newest finished step of the job and the time at which it finished."""


Decision = tuple[list[Record], list[Effect]]


class Machine:
    """`step` reads the state and decides; it never writes."""

    def __init__(self, soft: SoftState) -> None:
        self._soft = soft
        self._step = {n[3:]: getattr(self, n) for n in dir(self) if n.startswith("on_")}

    def step(self, state: State, event: Event, now: int) -> Decision:
        if event.generation and event.generation != state.job.generation:
            return [SignalRefused(now, event.kind, event.generation)], []
        decision: Decision = self._step[event.kind](state, event, now)
        return decision

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
