"""The simulated site: virtual clock, nodes and ranks as they really are, faults, and the effects carried out."""

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from tests.benchmarks.core_spike.checks import require
from tests.benchmarks.core_spike.codes import DEVICES, JOIN_BATCHES, LEASE, MS, RACK_NODES, STEP, S
from tests.benchmarks.core_spike.records import Effect, Event
from tests.benchmarks.core_spike.state import slots_of, slots_on
from tests.benchmarks.core_spike.store import Array

HOUR, DAY = 3600 * S, 86400 * S
NEVER = 1 << 62
BEAT, SWEEP, DRAIN, SAVE_EVERY = 1 * S, 500 * MS, 1 * MS, 180 * S
# Rates: 6.5 node faults per 1,000 node-days is the high row of the reference table (RSC-1, FT-HSDP at 98k);
# repairs have the median and mean of the StepFun trace; the other four are choices, printed with the result.
NODE_FAULTS, DEVICE_FAULTS, CRASHES = 6.5, 1.5, 1.5  # per 1,000 node-days
RACK_FAULT_DAYS, ZOMBIE_SHARE, SESSION_RESET_SHARE = 10.0, 0.05, 0.7
REPAIR_MEDIAN_H, REPAIR_MEAN_H, REPAIR_MIN_H = 20.0, 133.0, 0.25


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
        require(bool(((where < 0) | (where // DEVICES == node)).all()), "S1 (truth) a rank would live twice")
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
