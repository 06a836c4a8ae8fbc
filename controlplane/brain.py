"""The brain's thread: a bounded inbox, turns over it, ticks, and the measure of its own lateness.

One thread owns the engine. Everybody else posts events and reads the published state. A tick comes at its interval, when the next
leases run out, so that silence is known as soon as it may be judged, and when a job has waited long enough for failures
that belong together. Lateness is taken from the same
monotonic reading that the turn's time comes from, before the tick is judged: a process that was stopped for ten seconds
first says so, and only then looks at the silence of others.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn

import structlog

from controlplane.core.draft import Refusal
from controlplane.core.due import waits_until_ns
from controlplane.core.events import Event, NodeHello, Tick
from controlplane.core.health.distrust import Vitals
from controlplane.core.health.strain import Shown
from controlplane.core.state import State
from controlplane.core.units import ms, to_s
from controlplane.engine.ports import EpochLost
from controlplane.engine.soft import STALL_TOLERANCE_NS, SoftColumns
from controlplane.engine.turn import Engine, Reply, Request
from controlplane.observability import Metrics
from controlplane.strain import StrainWatch

LEAST_PAUSE_NS = ms(10)
"""Between ticks, however many leases run out one after the other: a site that falls silent together costs no tick a node."""
REST = 4
"""Times the length of a turn that passes before a lease may bring the next tick: a fifth of the brain at most goes into looking
at leases one by one. The interval stands."""
JUST_PAST_NS = 100_000
"""A lease has run out when it is over, not when it ends."""

HELLOS_WAIT_NS = ms(20)
"""A hello waits so long for others, unless something else is to be decided."""

SHOWN_EVENTS = 20
"""Events of a broken turn that are logged."""

log = structlog.get_logger(__name__)


class ExitCode(IntEnum):
    """Exit statuses of the controller; part of its interface."""

    OK = 0
    CANNOT_START = 2
    EPOCH_LOST = 3
    DEFECT = 4


class Clock:
    """Unix nanoseconds that never go back: the monotonic clock, anchored once."""

    def __init__(self, start_ns: int) -> None:
        self._offset_ns = start_ns - time.monotonic_ns()

    def at(self, monotonic_ns: int) -> int:
        """The time of a monotonic reading."""
        return self._offset_ns + monotonic_ns

    def now_ns(self) -> int:
        """The time now."""
        return self.at(time.monotonic_ns())


@dataclass(frozen=True, slots=True)
class BrainLimits:
    """Bounds of the brain: events in the inbox, events a turn, longest time between ticks and the lease (nanoseconds)."""

    inbox: int
    batch: int
    tick_ns: int
    lease_ns: int


class Brain:
    """Runs turns until stopped. `fatal` must end the process at once and not return."""

    def __init__(
        self,
        engine: Engine,
        soft: SoftColumns,
        clock: Clock,
        limits: BrainLimits,
        *,
        metrics: Metrics,
        strain: StrainWatch,
        fatal: Callable[[ExitCode], NoReturn],
    ) -> None:
        self._engine = engine
        self._soft = soft
        self._limits = limits
        self._metrics = metrics
        self._strain = strain
        self._fatal = fatal
        self.clock = clock
        self._inbox: deque[Request] = deque()
        self._pressing = 0  # events of the inbox that are no hellos
        self._waits_since_ns = 0
        self._ready = threading.Condition()
        self._stopping = False
        self._due_ns = time.monotonic_ns() + limits.tick_ns
        self._edge_due_ns: int | None = None
        self._distrust_until_ns = 0
        self._worst_late_ns = 0
        self._shown_degraded = False
        self._shown_blocked = ""
        self._lease_trouble = ""
        self._thread = threading.Thread(target=self._run, name="brain", daemon=True)

    @property
    def state(self) -> State:
        """The published state; never changed."""
        return self._engine.state

    @property
    def blocked(self) -> str:
        """Why the journal takes nothing now, or the lease cannot be renewed; "" when all is well."""
        return self._engine.blocked or self._lease_trouble

    def lease_trouble(self, why: str) -> None:
        """Why the lease cannot be renewed now, "" when it can: the database is away, though nothing had to be written."""
        self._lease_trouble = why

    @property
    def depth(self) -> int:
        """Events that wait."""
        return len(self._inbox)

    def start(self) -> None:
        """Begin with turns."""
        monotonic_ns = time.monotonic_ns()
        self._due_ns = monotonic_ns + self._pause_ns(self.clock.at(monotonic_ns))
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Finish the running turn, refuse what waits, end. False when it did not end in time."""
        with self._ready:
            self._stopping = True
            self._ready.notify()
        self._thread.join(timeout_s)
        for request in self._inbox:
            if request.reply is not None:
                request.reply(Refusal("unavailable", "SHUTTING_DOWN", "the controller is shutting down: try again"))
        self._inbox.clear()
        self._pressing = 0
        return not self._thread.is_alive()

    def post(self, event: Event, reply: Reply | None = None) -> bool:
        """Put an event in the inbox; False when it is full or the controller is going down."""
        with self._ready:
            if self._stopping or len(self._inbox) >= self._limits.inbox:
                return False
            if not self._inbox:
                self._waits_since_ns = time.monotonic_ns()
            self._inbox.append(Request(event, reply))
            if not isinstance(event, NodeHello):
                self._pressing += 1
            if self._pressing or len(self._inbox) in {1, self._limits.batch}:
                self._ready.notify()
            return True

    def edge_alive(self, monotonic_ns: int, next_ns: int) -> None:
        """The edge's loop ran just now and will again at `next_ns`: when it is late, beats have waited unread."""
        self._edge_due_ns = next_ns
        if monotonic_ns - self._due_ns > STALL_TOLERANCE_NS:
            self._show(degraded=True, late_ns=monotonic_ns - self._due_ns)

    def lag_s(self) -> float:
        """How late the brain's and the edge's loops are just now, or were in the last lease, or how long beats waited for them
        then, in seconds."""
        now_ns = time.monotonic_ns()
        worst_ns = self._worst_late_ns if now_ns < self._distrust_until_ns else 0
        return to_s(max(0, worst_ns, self._late_ns(now_ns)))

    def degraded(self) -> bool:
        """Whether silence is not trusted: a loop is late, or was within the last lease, or the core found another reason."""
        now_ns = time.monotonic_ns()
        late = now_ns < self._distrust_until_ns or self._late_ns(now_ns) > STALL_TOLERANCE_NS
        return late or bool(self.state.health.degraded)

    def strain(self) -> Shown:
        """What makes us see later than we should though silence is trusted; changes no verdict."""
        return self._strain.shown

    def vitals(self) -> Vitals:
        """How well this controller keeps up: its newest lag and its newest slow append."""
        return self._soft.vitals()

    def trusted_since_ns(self) -> int:
        """When this process began to listen, Unix ns: silence before it says nothing."""
        return self._soft.trusted_since_ns()

    def _late_ns(self, monotonic_ns: int) -> int:
        edge_ns = 0 if self._edge_due_ns is None else monotonic_ns - self._edge_due_ns
        return max(0, monotonic_ns - self._due_ns, edge_ns)

    def _run(self) -> None:
        while True:
            batch = self._next_batch()
            if batch is None:
                return
            monotonic_ns = time.monotonic_ns()
            now_ns = self.clock.at(monotonic_ns)
            ticks = monotonic_ns >= self._due_ns
            if ticks:
                # The tick goes first: a node that says hello in this batch has not beaten yet and must not be judged.
                batch.insert(0, Request(Tick(self._tick(monotonic_ns, now_ns))))
            if batch:
                self._turn(batch, now_ns)
                took_ns = time.monotonic_ns() - monotonic_ns
                self._metrics.turn_seconds.observe(to_s(took_ns))
                if ticks:
                    self._due_ns = rested(self._due_ns, monotonic_ns, took_ns, self._limits.tick_ns)
                self._show_blocked()

    def _next_batch(self) -> list[Request] | None:
        with self._ready:
            while not self._stopping and (left_ns := self._left_ns(time.monotonic_ns())) > 0:
                self._ready.wait(to_s(left_ns))
            if self._stopping:
                return None
            batch = [self._inbox.popleft() for _ in range(min(len(self._inbox), self._limits.batch))]
            self._pressing -= sum(not isinstance(request.event, NodeHello) for request in batch)
            return batch

    def _left_ns(self, monotonic_ns: int) -> int:
        """How long to wait for the next batch. A turn looks at every job, for one hello as for fifty: in a storm they come one
        by one, each after its handshake, and wait a moment for each other."""
        if self._pressing or len(self._inbox) >= self._limits.batch:
            return 0
        due_ns = self._due_ns - monotonic_ns
        return min(due_ns, self._waits_since_ns + HELLOS_WAIT_NS - monotonic_ns) if self._inbox else due_ns

    def _tick(self, monotonic_ns: int, now_ns: int) -> int:
        """Account for the lateness of this tick and plan the next one. Returns the lateness in nanoseconds."""
        self._soft.waiting(self.depth, self._limits.inbox)
        late_ns, behind_ns = self._late_ns(monotonic_ns), self._soft.behind(now_ns)
        if self._soft.stalled(late_ns, now_ns) or behind_ns:
            self._worst_late_ns = max(late_ns, behind_ns)
            self._distrust_until_ns = monotonic_ns + self._limits.lease_ns
            self._show(degraded=True, late_ns=self._worst_late_ns)
        elif monotonic_ns >= self._distrust_until_ns:
            self._show(degraded=False, late_ns=late_ns)
        self._strain.look(self.state.fleet, now_ns, monotonic_ns)
        self._due_ns = monotonic_ns + self._pause_ns(now_ns)
        return late_ns

    def _pause_ns(self, now_ns: int) -> int:
        leases_ns = self._soft.lease_ends_ns(self.state.fleet.size, self._limits.lease_ns, now_ns)
        return paused(now_ns, self._limits.tick_ns, leases_ns, waits_until_ns(self.state, now_ns))

    def _turn(self, batch: list[Request], now_ns: int) -> None:
        try:
            self._engine.turn(batch, now_ns)
        except EpochLost as error:
            self.epoch_lost(error)
        except Exception:
            shown = [repr(request.event)[:2_000] for request in batch[:SHOWN_EVENTS]]
            log.critical("turn_broke", events=shown, count=len(batch), revision=self.state.revision, exc_info=True)
            self._fatal(ExitCode.DEFECT)

    def epoch_lost(self, error: EpochLost) -> NoReturn:
        """Another controller leads: end at once. Any thread."""
        log.critical("epoch_lost", reason=str(error), epoch=self.state.epoch)
        self._fatal(ExitCode.EPOCH_LOST)

    def _show(self, *, degraded: bool, late_ns: int) -> None:
        if degraded is self._shown_degraded:
            return
        self._shown_degraded = degraded
        if degraded:
            log.warning("detector_degraded", late_ms=late_ns // ms(1), inbox=self.depth)
        else:
            log.info("detector_restored")

    def _show_blocked(self) -> None:
        blocked = self.blocked
        if bool(blocked) == bool(self._shown_blocked):
            return
        self._shown_blocked = blocked
        if blocked:
            log.error("journal_blocked", reason=blocked)
        else:
            log.info("journal_writable", revision=self.state.revision)


def paused(now_ns: int, interval_ns: int, leases_ns: tuple[int, int], waits_ns: int) -> int:
    """From a tick to the next one, nanoseconds: an interval, or less when leases run out or a job stops waiting before that.

    Args:
        now_ns, interval_ns: Unix time of the tick, and the longest pause.
        leases_ns: when the next lease runs out, and the last of those that end together with it: they are not looked at one by
            one, though the last of them ends a little after the interval.
        waits_ns: when a job stops waiting.
    """
    first_ns, last_ns = leases_ns
    ends_ns = last_ns + JUST_PAST_NS - now_ns if first_ns - now_ns <= interval_ns else interval_ns
    return max(min(LEAST_PAUSE_NS, interval_ns), min(ends_ns, waits_ns - now_ns))


def rested(due_ns: int, began_ns: int, took_ns: int, interval_ns: int) -> int:
    """When the next tick is due after one that began at `began_ns` and whose turn took so long: as planned, or later when turns are
    costly (a rack is lost under a large job), and for that never later than its interval. Monotonic nanoseconds."""
    return max(due_ns, began_ns + min((1 + REST) * took_ns, interval_ns))
