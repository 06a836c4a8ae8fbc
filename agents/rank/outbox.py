"""What a rank process has to tell its node agent: newest-wins facts, and messages repeated until acknowledged.

Messages are built when they leave, not when they are queued, because the wire carries ages. Nothing here does I/O.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

from phalanx.v1 import agent_pb2, local_pb2, types_pb2

Build = Callable[[float], local_pb2.LocalRequest]
"""Makes the message, given the monotonic time (seconds) at which it leaves."""

RELIABLE_LIMIT = 256
"""Unacknowledged messages kept; a rank makes one per checkpoint, so this is hours without an agent."""

RESEND_S = 1.0
PROGRESS_EVERY_S = 0.01
"""Steps are told at this distance at least; what is finished in between is in the newest."""


def age_ms(moment: float | None, now: float) -> int:
    """Milliseconds since `moment`, at least 1; 0 when it has not happened."""
    return 0 if moment is None else max(1, round((now - moment) * 1000))


@dataclass(frozen=True, slots=True)
class RankFacts:
    """What this process does now, with the moments (monotonic seconds) its generation reached."""

    state: types_pb2.RankState.ValueType
    rank: int = -1
    generation: int = 0
    token: str = ""
    joining_at: float | None = None
    rendezvous_at: float | None = None
    restored_at: float | None = None
    first_step_at: float | None = None

    def message(self, host_id: str, now: float) -> local_pb2.RankStatus:
        """The wire form at `now`."""
        return local_pb2.RankStatus(
            host_id=host_id,
            state=self.state,
            rank=self.rank,
            generation=self.generation,
            token=self.token,
            times=agent_pb2.GenerationTimes(
                joining_age_ms=age_ms(self.joining_at, now),
                rendezvous_age_ms=age_ms(self.rendezvous_at, now),
                restored_age_ms=age_ms(self.restored_at, now),
                first_step_age_ms=age_ms(self.first_step_at, now),
            ),
        )


@dataclass(slots=True)
class _Pending:
    build: Build
    acknowledged: bool
    """False for a message that the protocol does not acknowledge: it is sent once per connection."""
    sent_at: float | None = None


class Outbox:
    """Thread-safe queue between the workload's threads and the link. Bounded: newest-wins slots and RELIABLE_LIMIT."""

    def __init__(self, facts: RankFacts) -> None:
        self._lock = threading.RLock()  # a message under construction may read the facts
        self._facts = facts
        self._facts_due = False
        self._progress: Build | None = None
        self._progress_sent_at = -PROGRESS_EVERY_S
        self._pending: dict[Hashable, _Pending] = {}
        self.dropped = 0

    @property
    def facts(self) -> RankFacts:
        """The newest status."""
        with self._lock:
            return self._facts

    def status(self, facts: RankFacts) -> None:
        """Replace the status; only the newest is ever sent."""
        with self._lock:
            self._facts = facts
            self._facts_due = True

    def retoken(self, generation: int, token: str) -> None:
        """The agent restarted and made a new token for the generation that this process already obeys."""
        with self._lock:
            if self._facts.generation == generation:
                self._facts = replace(self._facts, token=token)
                self._facts_due = True

    def progress(self, build: Build) -> bool:
        """Replace the progress report; only the newest is ever sent. False: one was waiting already, so whoever sends is awake."""
        with self._lock:
            waits, self._progress = self._progress is not None, build
            return not waits

    def wait_s(self, now: float) -> float:
        """How long whoever sends may sleep unless it is woken."""
        with self._lock:
            if self._progress is None:
                return RESEND_S
            return min(RESEND_S, max(0.0, self._progress_sent_at + PROGRESS_EVERY_S - now))

    def reliable(self, key: Hashable, build: Build, *, acknowledged: bool = True) -> None:
        """Send until `acknowledge(key)`; unacknowledged kinds once per connection until `forget`."""
        with self._lock:
            self._pending[key] = _Pending(build, acknowledged)
            while len(self._pending) > RELIABLE_LIMIT:
                self._pending.pop(next(iter(self._pending)))
                self.dropped += 1

    def acknowledge(self, key: Hashable) -> None:
        """The agent has `key`; a repeat is harmless."""
        with self._lock:
            self._pending.pop(key, None)

    def forget(self, keep: Callable[[Hashable], bool]) -> None:
        """Drop the pending messages that `keep` refuses, because their generation is over."""
        with self._lock:
            self._pending = {key: item for key, item in self._pending.items() if keep(key)}

    def pending(self, key: Hashable) -> bool:
        """True while `key` is not acknowledged."""
        with self._lock:
            return key in self._pending

    def reconnected(self, host_id: str, now: float) -> local_pb2.RankStatus:
        """Everything unacknowledged is due again; returns the status for the registration."""
        with self._lock:
            for item in self._pending.values():
                item.sent_at = None
            self._facts_due = False
            return self._facts.message(host_id, now)

    def due(self, host_id: str, now: float) -> list[local_pb2.LocalRequest]:
        """Messages to write now: status before progress before the rest, so the agent sees states in order."""
        with self._lock:
            out = []
            if self._facts_due:
                self._facts_due = False
                out.append(local_pb2.LocalRequest(rank_status=self._facts.message(host_id, now)))
            follows = any(
                item.sent_at is None for item in self._pending.values()
            )  # steps are told before what ends them
            if self._progress is not None and (follows or now - self._progress_sent_at >= PROGRESS_EVERY_S):
                out.append(self._progress(now))
                self._progress, self._progress_sent_at = None, now
            for item in self._pending.values():
                if item.sent_at is None or (item.acknowledged and now - item.sent_at >= RESEND_S):
                    item.sent_at = now
                    out.append(item.build(now))
            return out
