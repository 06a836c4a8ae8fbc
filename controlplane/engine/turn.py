"""The turn: the only way from an event to an effect. The same code runs in production and in simulation.

working = state.fork()
for event in drained inbox:   decision = machine.step(working, event); apply its records to working
for job to look at:           the same with Settle(job), once for the whole batch, until nothing is left to say
journal.append(all records)   one transaction; fails -> nothing applied, nothing sent
state = working               published; never changed afterwards
effects.submit(effects)       ids, generation, epoch, deadline on each
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from controlplane.core import records as r
from controlplane.core.apply import apply
from controlplane.core.draft import Answer, Refusal
from controlplane.core.effects import Effect
from controlplane.core.events import Command, Event, Ordered, Settle
from controlplane.core.machine import Machine
from controlplane.core.softstate import SoftState
from controlplane.core.state import State
from controlplane.core.units import ms
from controlplane.engine.gathering import Gathering
from controlplane.engine.ports import Appender, JournalEntry, JournalUnavailable, JournalUncertain

MAX_FOLLOW_UPS = 10_000
"""Looks at jobs that one batch may lead to; more means that two decisions chase each other, which is a defect."""

PROBE_NS = ms(500)
"""Between tries while the journal takes nothing; each may wait for a connection."""

Reply = Callable[[Answer | Refusal | None], None]


@dataclass(frozen=True, slots=True)
class Request:
    """An event and where its answer goes once it is durable (None: nobody waits)."""

    event: Event
    reply: Reply | None = None


class RunawayDecision(Exception):
    """Decisions did not come to rest: a defect of the machine; nothing of the turn was written."""


@dataclass(slots=True)
class TurnResult:
    """What one turn did."""

    state: State
    entries: tuple[JournalEntry, ...] = ()
    records: tuple[r.Record, ...] = ()
    effects: tuple[Effect, ...] = ()
    finished: tuple[str, ...] = ()
    replies: list[tuple[Reply, Answer | Refusal | None]] = field(default_factory=list)


def decide(
    machine: Machine, state: State, requests: Sequence[Request], now_ns: int, soft: SoftState, *, draw: float = 0.0
) -> TurnResult:
    """Step and apply a drained batch on a fork of `state`. Writes nothing anywhere. `draw`: see `Machine.step`.

    Raises:
        RunawayDecision: follow-ups did not end.
    """
    working = state.fork()
    entries: list[JournalEntry] = []
    records: list[r.Record] = []
    replies: list[tuple[Reply, Answer | Refusal | None]] = []
    looks: dict[str, tuple[Settle, str]] = {}
    gathering = Gathering()

    def step(event: Event, cause: str) -> Answer | Refusal | None:
        decision = machine.step(working, event, now_ns, soft, draw)
        for record in decision.records:
            apply(working, record, now_ns)
            entries.append(entry(working, record, now_ns, cause))
            records.append(record)
        for follow in decision.follow:
            looks.setdefault(follow.job, (follow, cause))
        gathering.add(decision, cause)
        return decision.reply

    def gather() -> None:
        told = gathering.take()
        if told is not None:
            step(*told)

    def look() -> None:
        for _ in range(MAX_FOLLOW_UPS):
            if not looks:
                return
            follow, cause = looks.pop(next(iter(looks)))
            step(follow, cause)
        raise RunawayDecision(f"more than {MAX_FOLLOW_UPS} looks at jobs: {sorted(looks)[:5]}")

    for request in requests:
        event = request.event
        if not gathering.joins(event):
            gather()  # whatever is decided next rests on it
        if isinstance(event, Ordered | Command):
            look()  # an answer to an operator tells of what is decided so far
        answer = step(event, type(event.command if isinstance(event, Ordered) else event).__name__)
        if request.reply is not None:
            replies.append((request.reply, answer))
    gather()
    look()
    issued = tuple(e for record in records if isinstance(record, r.EffectsIssued) for e in record.effects)
    finished = tuple(i for record in records if isinstance(record, r.EffectsFinished) for i in record.ids)
    return TurnResult(working, tuple(entries), tuple(records), issued, finished, replies)


def entry(state: State, record: r.Record, at_ns: int, cause: str) -> JournalEntry:
    """The journal entry of a record that was just applied to `state`."""
    kind, version, body = r.encode(record)
    job, node = r.subject(record)
    return JournalEntry(state.revision, state.epoch, at_ns, cause, kind, version, body, job, node)


def _undrawn() -> float:
    """Nothing is spread at random."""
    return 0.0


@dataclass(slots=True)
class Engine:
    """Runs turns against a journal. One thread only; readers take `state`, which is never changed once published.

    `draw`: gives a random number in [0, 1) for each turn.
    `blocked`: why the journal takes nothing now ("" when it does). While blocked, a turn decides and keeps nothing:
    observations are told again by agents (they were not acknowledged), commands are refused, and every `PROBE_NS` a probe
    finds out whether it can go on.

    A commit whose connection broke may be durable or not. Its result is set aside, neither published nor dropped, until
    the journal says which: acting on it too early, or deciding the same again under other revisions, would be wrong.

    What the probe tries is the append that failed: room for less would end the blockade for a moment only.
    """

    machine: Machine
    journal: Appender
    soft: SoftState
    submit: Callable[[Sequence[Effect]], None]
    state: State = field(default_factory=State)
    blocked: str = ""
    draw: Callable[[], float] = _undrawn
    on_commit: Callable[[TurnResult], None] | None = None
    _uncertain: TurnResult | None = None
    _failed: Sequence[JournalEntry] = ()
    _probe_due_ns: int = 0

    def turn(self, requests: Sequence[Request], now_ns: int) -> TurnResult:
        """Decide, make durable, publish, act, answer. Order matters: nothing leaves before the append returned.

        Raises:
            EpochLost: another controller leads; the caller must end the process at once.
        """
        if self.blocked and not self._writable(now_ns):
            _refuse(requests, "JOURNAL_UNAVAILABLE", f"nothing was stored: {self.blocked}")
            return TurnResult(self.state)
        result = decide(self.machine, self.state, requests, now_ns, self.soft, draw=self.draw())
        if result.entries:
            try:
                self.journal.append(result.entries)
            except JournalUncertain as error:
                self._block(error, 0)
                self._uncertain, self._failed = result, ()
                text = f"whether this was stored is not known yet, repeat it with the same request id: {error}"
                _refuse(requests, "JOURNAL_UNCERTAIN", text)
                return TurnResult(self.state)
            except JournalUnavailable as error:
                self._block(error, 0)
                self._failed = result.entries
                _refuse(requests, "JOURNAL_UNAVAILABLE", f"nothing was stored: {error}")
                return TurnResult(self.state)
        self._publish(result)
        for reply, answer in result.replies:
            reply(answer)
        if self.on_commit is not None and result.entries:
            self.on_commit(result)
        return result

    def _publish(self, result: TurnResult) -> None:
        if result.entries:
            self.state = result.state
        if result.effects:
            self.submit(result.effects)

    def _writable(self, now_ns: int) -> bool:
        """Whether the journal takes something again; then what was uncertain is settled."""
        if now_ns < self._probe_due_ns:
            return False
        uncertain = self._uncertain
        try:
            if uncertain is not None:
                durable = self.journal.stored(uncertain.entries)
            self.journal.probe(self.state.epoch, self._failed)
        except JournalUnavailable as error:
            self._block(error, now_ns + PROBE_NS)
            return False
        self.blocked, self._uncertain, self._failed = "", None, ()
        if uncertain is not None and durable:
            self._publish(uncertain)
            if self.on_commit is not None:
                self.on_commit(uncertain)
        return True

    def _block(self, error: JournalUnavailable, probe_due_ns: int) -> None:
        self.blocked = str(error)
        self._probe_due_ns = probe_due_ns


def _refuse(requests: Sequence[Request], reason: str, text: str) -> None:
    for request in requests:
        if request.reply is not None:
            request.reply(Refusal("unavailable", reason, text))


def replay(state: State, entries: Sequence[JournalEntry]) -> State:
    """Fold journal entries into a working state. Decides nothing."""
    for item in entries:
        if item.revision != state.revision + 1:
            raise ValueError(f"journal has revision {item.revision} after {state.revision}")
        apply(state, r.decode(item.type, item.version, item.body), item.at_ns)
    return state
