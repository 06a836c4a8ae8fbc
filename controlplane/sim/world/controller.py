"""One controller process: the production engine with an inbox, a clock of its own, and every way to fail between two steps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from controlplane.core import events as ev
from controlplane.core.draft import Answer, Refusal
from controlplane.core.effects import Effect
from controlplane.core.state import State
from controlplane.core.units import ms, seconds
from controlplane.engine.ports import EpochLost, JournalUnavailable, Snapshot
from controlplane.engine.recover import lead
from controlplane.engine.turn import Engine, Request, TurnResult
from controlplane.sim.journal import ControllerCrashed, CrashPoint, SimJournal
from controlplane.sim.kernel import stream_seed
from controlplane.sim.observer import Turn
from controlplane.sim.soft import SimSoft

if TYPE_CHECKING:
    from controlplane.sim.world.site import World

Reply = Callable[[Answer | Refusal | None], None]

SNAPSHOT_RECORDS = 1_000
"""Records from one snapshot to the next."""

MAX_INBOX = 100_000

TICK_NS = ms(100)
"""The usual interval between two ticks; a brain that is busy for less has missed none."""


class Controller:
    """A process that leads, or believes that it does. `alive` false: its process has ended."""

    def __init__(self, world: World, storage: SimJournal, number: int) -> None:
        self.world = world
        self.journal = storage.open_again()
        self.number = number
        self.alive = True
        self.busy_until_ns = 0
        self._inbox: list[tuple[ev.Event, Reply | None]] = []
        self._waits_from_ns = 0
        self._turning = False
        self._events: Sequence[ev.Event] = ()
        wall_ns = world.now_ns + world.wall_offset_ns
        state = lead(self.journal, world.machine, f"controller-{number}", str(number), wall_ns)
        self._anchor_ns = world.now_ns
        self._anchored_at_ns = max(wall_ns, state.at_ns)
        self._drift = 0.0
        self.soft = SimSoft(world, self.clock_ns, state.fleet)
        self.engine = Engine(
            world.machine, self.journal, self.soft, self._submit, state, draw=self._draw, on_commit=self._committed
        )
        self._published = state

    def _draw(self) -> float:
        """A random number of the moment, not of the turn: how often the machine is asked changes no waiting time."""
        return stream_seed(self.world.kernel.seed, f"controller/draw/{self.world.now_ns}") / 2**128

    @property
    def state(self) -> State:
        """The truth that it has published."""
        return self.engine.state

    @property
    def busy(self) -> bool:
        """Whether its brain is stalled or waits for its disk."""
        return self.world.now_ns < self.busy_until_ns

    def clock_ns(self) -> int:
        """Its own clock: anchored once, monotonic from then on, as `brain.Clock`; a wall clock that jumps does not move it."""
        passed_ns = self.world.now_ns - self._anchor_ns
        return self._anchored_at_ns + passed_ns + round(passed_ns * self._drift)

    def set_drift(self, drift: float) -> None:
        """From now on its monotonic clock runs `drift` fast (0.001: a second in 1,000; negative: slow)."""
        self._anchored_at_ns, self._anchor_ns, self._drift = self.clock_ns(), self.world.now_ns, drift

    # -- turns ------------------------------------------------------------------------------------------------------

    def tell(self, event: ev.Event, reply: Reply | None = None) -> None:
        """An event reaches the process: decided now, or with everything else once its brain is free."""
        self.tell_all([(event, reply)])

    def tell_all(self, batch: Sequence[tuple[ev.Event, Reply | None]]) -> None:
        """Events that arrive together are decided in one turn."""
        if not self.alive:
            return
        if not self._inbox:
            self._waits_from_ns = self.world.now_ns
        self._inbox.extend(batch[: MAX_INBOX - len(self._inbox)])
        self._drain()

    def _drain(self) -> None:
        """Turn by turn until nothing waits. What answers and effects of a turn lead to at once waits for its end."""
        while self._inbox and self.alive and not self.busy and not self._turning:
            waiting, self._inbox = self._inbox, []
            self._turn(waiting)

    def turn(self, *events: ev.Event) -> list[Answer | Refusal | None]:
        """One turn now, and its answers. Nothing when the process has ended in it."""
        answers: list[Answer | Refusal | None] = []
        self._turn([(event, answers.append) for event in events])
        self._drain()
        return answers

    def tick(self) -> None:
        """Time has passed; a brain that is not free does not notice."""
        if self.alive and not self.busy:
            self._turn([(ev.Tick(), None)])
            self._drain()

    def _turn(self, batch: Sequence[tuple[ev.Event, Reply | None]]) -> None:
        if not self.alive:
            return
        self._events = [event for event, _ in batch]
        before = self.engine.state
        self._turning = True
        try:
            self.engine.turn([Request(event, reply) for event, reply in batch], self.clock_ns())
        except EpochLost:
            self.world.control.ended(self)
        except ControllerCrashed:
            self.world.control.crashed(self)
        finally:
            self._turning = False
        if self.alive and self.engine.state is not before:
            self.soft.appended(seconds(self.journal.storage.fsync_s))
            self.stall(self.turn_s)

    @property
    def turn_s(self) -> float:
        """How long a turn that writes something takes."""
        return self.world.timings.turn_s + self.journal.storage.fsync_s

    def stall(self, duration_s: float) -> None:
        """The brain does nothing for a while; what is told meanwhile waits."""
        if not duration_s:
            return
        self.busy_until_ns = max(self.busy_until_ns, self.world.now_ns + seconds(duration_s))
        self.world.kernel.at(self.busy_until_ns, lambda: self._wake(seconds(duration_s)))

    def _wake(self, late_ns: int) -> None:
        if not self.alive or self.busy:
            return
        if late_ns < TICK_NS:
            self._drain()
            return
        self.soft.stalled(late_ns)
        self.soft.waiting(len(self._inbox), MAX_INBOX)
        self._drain()
        self.soft.waiting(0, MAX_INBOX)
        self.world.soft_changed()

    @property
    def inbox(self) -> int:
        """Events that wait for the brain."""
        return len(self._inbox)

    @property
    def waits_ns(self) -> int:
        """How long the oldest event of the inbox has waited; what comes during a turn waits for its end."""
        return self.world.now_ns - self._waits_from_ns if self._inbox else 0

    def _submit(self, effects: Sequence[Effect]) -> None:
        if self.journal.crash is CrashPoint.BEFORE_EFFECTS:
            raise ControllerCrashed("killed after the state was published, before its effects left")
        self.world.effects.submit(self, effects, self.turn_s)

    def _committed(self, result: TurnResult) -> None:
        before, self._published = self._published, result.state
        self.soft.fleet = result.state.fleet
        self.soft.committed(result.records)
        events, self._events = self._events, ()
        turn = Turn(
            self.world.now_ns, self.state.epoch, events, before, result, self.engine.state,
            self is self.world.control.leader,
        )  # fmt: skip
        self.world.committed(turn)
        self._snapshot()

    def _snapshot(self) -> None:
        """What the follower does in production: keep the whole state once in a while, so that a restart reads little."""
        kept = self.journal.latest_snapshot()
        if self.state.revision - (kept.revision if kept else 0) < SNAPSHOT_RECORDS:
            return
        body = self.state.to_json()
        snapshot = Snapshot(self.state.revision, hashlib.sha256(body.encode()).hexdigest(), body)
        with suppress(JournalUnavailable, EpochLost):  # the next turn tries again
            self.journal.store_snapshot(snapshot)
