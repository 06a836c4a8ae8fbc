"""Sessions of agents and cells, whatever carries them: what a name is told, what it reports, and who speaks for it.

A session's observations are taken to the brain one by one, in order, so that an acknowledgement covers all earlier reports.
Whoever wants a session to end says so through `end`; what carries it (`streams`: a stream of its own, `relay_service`: a
relay's) then ends it with that refusal.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import structlog

from controlplane.core.draft import Refusal
from controlplane.core.effects import Effect
from controlplane.core.events import EffectDone, NodeReport, Observation
from controlplane.core.units import seconds, to_s
from controlplane.engine.soft import UNSAID
from controlplane.observability.beats import Delay
from controlplane.observability.detection import Failure
from controlplane.observability.offenders import CLOCK_OFF, RECONNECTS
from controlplane.rpc.access import check_name
from controlplane.rpc.caller import Caller
from controlplane.rpc.effects import Superseded
from controlplane.rpc.errors import RequestRefused
from controlplane.rpc.merging import merged
from controlplane.rpc.offences import note, said
from controlplane.rpc.pace import Pace, PeerPace
from controlplane.rpc.site import Outcome, Site

BATCH = 64
"""Outcomes of effects that go to the brain together."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """An observation on its way to the brain, and what to do once it is durable."""

    event: Observation
    done: Callable[[], None] | None = None


@dataclass(slots=True)
class Registry:
    """Who speaks for a name now. The lock of a name orders hellos and ends."""

    current: dict[str, Session] = field(default_factory=dict)
    _locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    def lock(self, name: str) -> asyncio.Lock:
        """The lock of a name."""
        found = self._locks.get(name)
        if found is None:
            found = self._locks[name] = asyncio.Lock()
        return found

    def end(self, name: str, refusal: Refusal) -> None:
        """End the session of a name, if there is one."""
        session = self.current.get(name)
        if session is not None:
            session.end(refusal)


class Session:
    """One name's session from its hello to its end. Subclasses know the messages; a carrier reads and writes them.

    `wake` is called when `next_instruction` has something to write; a carrier sets it, looks at `closing`, and calls `close`
    once when the session is over. `name` is whom the session speaks for, once that is accepted; `said` the <kind>/<name> that
    the hello gave, whether or not it is believed.
    `pace`: how fast it is read, from the moment at which it is known who it is; `limits`: all that bounds that name.
    """

    kind = "session"
    subject = "name"

    def __init__(self, site: Site, registry: Registry, caller: Caller) -> None:
        self.site = site
        self.registry = registry
        self.caller = caller
        self.name = ""
        self.said = ""
        self.limits: PeerPace | None = None
        self.pace: Pace | None = None
        self.boot_id = ""
        self.ended = False
        self.closing: asyncio.Future[Refusal] = site.loop.create_future()
        self.wake: Callable[[], None] = _nobody
        self._delay = Delay()
        self._outgoing: deque[Any] = deque()
        self._effects: deque[Effect] = deque()
        self._carried: set[str] = set()
        self._work: deque[Work] = deque()  # bounded by the carrier, which reads no further or ends the session
        self._carrying: asyncio.Future[Any] | None = None
        self._room: asyncio.Event | None = None

    # What subclasses provide

    async def greet(self, message: Any) -> None:
        """Handle the first message; raises RequestRefused. Must call `accept` inside the name's lock."""
        raise NotImplementedError

    def handle(self, message: Any) -> None:
        """Handle a later message."""
        raise NotImplementedError

    def lost(self, reason: str) -> Observation:
        """The event for the end of this session."""
        raise NotImplementedError

    def addressed(self, effect: Effect) -> bool:
        """Whether an effect is, or is also, for this peer."""
        return effect.target == f"{self.subject}:{self.name}"

    def effect_message(self, effect: Effect) -> Any:
        """The instruction for an effect; raises Superseded."""
        raise NotImplementedError

    # What they use

    async def introduce(self, kind: str, name: str) -> None:
        """The hello says who this is.

        Raises:
            RequestRefused: it is somebody else, or dials too often.
        """
        self.said = said(kind, name)
        check_name(self.caller, kind, name)
        if self.pace is None:
            await self.admit(self.said)

    async def admit(self, subject: str) -> None:
        """Let a peer open a session, whatever it says in it.

        Raises:
            RequestRefused: RECONNECTS_TOO_OFTEN; it had to wait for that.
        """
        limits = self.limits = self.site.paces.of(subject)
        self.pace = limits.messages
        if limits.hellos.take():
            return
        await limits.hold()
        text = f"{subject} opens sessions faster than one in a second: wait longer after each end"
        raise RequestRefused(Refusal("exhausted", RECONNECTS, text))

    def send(self, instruction: Any) -> None:
        """Queue an instruction; a peer that leaves too many unread is cut."""
        if len(self._outgoing) >= self.site.settings.session_queue:
            self.end(self.slow(f"has left {len(self._outgoing)} instructions unread"))
            return
        self._outgoing.append(instruction)
        self.wake()

    def queue(self, work: Work) -> None:
        """Queue an observation for the brain. While nothing waits it is there at once."""
        if self._carrying is None and not self._work and not self.ended:
            answer = self.site.post(work.event)
            if answer is not None:
                self._carrying = answer
                answer.add_done_callback(partial(self._answered, work))
                return
        self._work.append(work)
        self._carry_on()

    def _answered(self, work: Work, answer: asyncio.Future[Outcome]) -> None:
        """The brain has taken the observation that went by itself, or the session is over."""
        self._carrying = None
        if answer.cancelled() or self.ended:
            return
        outcome = answer.result()
        if not isinstance(outcome, Refusal):
            if work.done is not None:
                work.done()
        elif outcome.code == "unavailable":
            self._work.appendleft(work)
        else:
            self.end(outcome)
            return
        self._carry_on()

    def _carry_on(self) -> None:
        if self._work and self._carrying is None and not self.ended:
            self._carrying = self.site.loop.create_task(self._carry(), name=f"{self.kind} observations")

    def end(self, refusal: Refusal) -> None:
        """End the session with a status."""
        if not self.closing.done():
            self.closing.set_result(refusal)

    def send_effects(self, effects: Iterable[Effect]) -> None:
        """Send effects that this session has not carried yet, in order.

        They wait as they are (there are never more than the state has outstanding), and are filled in when it is
        their turn.
        """
        for effect in effects:
            if effect.id not in self._carried:
                self._carried.add(effect.id)
                self._effects.append(effect)
        outstanding = self.site.state.effects
        if len(self._carried) > 2 * len(outstanding) + 64:
            self._carried &= outstanding.keys() | {effect.id for effect in self._effects}
        self.wake()

    def accept(self) -> None:
        """From now on this session speaks for its name; an earlier one ends."""
        earlier = self.registry.current.get(self.name)
        self.registry.current[self.name] = self
        if earlier is not None:
            text = f"another session of {self.name} has taken over"
            earlier.end(Refusal("conflict", "SESSION_REPLACED", text))
        if self.ended:  # while the brain took the hello: nobody has told of the end yet
            self.site.spawn(self._leave("the stream ended during its hello", 0.0))

    def note(self, event: str, **fields: object) -> None:
        """A log line about this session; `node` or `cell` holds its name, as in every other line."""
        about = {self.subject: self.name, "boot_id": self.boot_id, "peer": self.caller.peer}
        log.info(event, **about, **fields)

    def offence(self, reason: str, text: str, count: int = 1) -> None:
        """Count bad input that does not end the session, and name who sent it."""
        self.site.metrics.refuse(reason, count)
        note(self.site.metrics, self.caller, self.said, reason, text, count=count)

    def lag_ns(self, sent_ns: int, now_ns: int, beats: int = 1) -> int:
        """How long beats were on their way, beyond what it takes at best; UNSAID when they do not say when they left. A clock that
        cannot be right says nothing, and touches no lease either way."""
        if not sent_ns:
            return UNSAID
        lag_ns = self._delay.lag_ns(sent_ns, now_ns)
        if lag_ns is None:
            off_s = to_s(sent_ns - now_ns)
            self.offence(
                CLOCK_OFF, f"its clock is {off_s:+.0f} s off ours, or was set: how late it beats is not measured"
            )
            return UNSAID
        self.site.metrics.beats.note(lag_ns, beats)
        return lag_ns

    def effect_result(self, done: EffectDone) -> None:
        """An outcome goes to the brain, after the reports that came before it. Outcomes of others' effects are refused."""
        effect = self.site.state.effects.get(done.effect_id)
        if effect is not None and not self.addressed(effect):
            text = f"{self.name} answers effect {done.effect_id}, which was sent to {effect.target}"
            raise RequestRefused(Refusal("denied", "NOT_YOUR_NAME", text))
        if effect is not None and effect.group:
            if not done.ok:
                self.queue(Work(replace(done, node=self.name)))
            return  # that it was done is shown by the ranks, not said by every node
        self.queue(Work(done))

    # What carriers use

    @property
    def waiting(self) -> int:
        """Observations that wait for the brain."""
        return len(self._work)

    @property
    def busy(self) -> bool:
        """Whether an observation is on its way to the brain, or waits."""
        return self._carrying is not None or bool(self._work)

    async def room(self) -> None:
        """Until the brain has caught up with half of what may wait."""
        self._room = asyncio.Event()
        await self._room.wait()

    def slow(self, what: str) -> Refusal:
        """What a peer is told that does not read."""
        return Refusal("exhausted", "SLOW_READER", f"{self.name or 'the peer'} {what}: connect again")

    def backlog(self) -> Refusal:
        """What a peer is told whose reports do not get through."""
        text = f"{len(self._work)} reports of {self.name} wait for the controller: connect again"
        return Refusal("exhausted", "BACKLOG", text)

    def next_instruction(self) -> Any:
        """What to write now, None when nothing waits."""
        if self._outgoing:
            return self._outgoing.popleft()
        while self._effects:
            effect = self._effects.popleft()
            if effect.id not in self.site.state.effects:
                continue
            try:
                return self.effect_message(effect)
            except Superseded as reason:
                if effect.group:
                    continue  # it ends with its generation, not with one node's part of it
                event = EffectDone(effect.id, ok=False, message=str(reason))
                self.site.spawn(self.site.tell_until_durable(event))
        return None

    def close(self, reason: str, moved_s: float = 0.0) -> None:
        """The session is over: the brain learns it, unless another one speaks for the name within `moved_s`."""
        self.ended = True
        if self._carrying is not None:
            self._carrying.cancel()
        self.site.spawn(self._leave(reason, moved_s))

    async def _carry(self) -> None:
        """One report at a time, in order; outcomes of effects that follow each other together."""
        try:
            while self._work and not self.ended:
                batch = [self._next_work()]
                while isinstance(batch[-1].event, EffectDone) and self._work and len(batch) < BATCH:
                    batch.append(self._work.popleft())
                together = [work for work in batch if isinstance(work.event, EffectDone)]
                if together:
                    await asyncio.gather(*(self._deliver(work) for work in together))
                for work in batch[len(together) :]:
                    await self._deliver(work)
                if self._room is not None and len(self._work) < self.site.settings.report_queue // 2:
                    self._room.set()
        except RequestRefused as error:
            self.end(error.refusal)
        except Exception:  # process edge: a defect in one session must not reach the others
            log.exception("session_broke", **{self.subject: self.name})
            self.site.metrics.refuse("INTERNAL")
            text = "the session failed by a defect of the controller; its log has the details"
            self.end(Refusal("internal", "INTERNAL", text))
        finally:
            self._carrying = None

    def _next_work(self) -> Work:
        """What waits longest, with those that follow it merged into it: while the brain is behind, it has less to do. The last
        acknowledgement covers them all."""
        work = self._work.popleft()
        while self._work and isinstance(work.event, NodeReport) and isinstance(self._work[0].event, NodeReport):
            event = merged(work.event, self._work[0].event)
            if event is None:
                break
            work = replace(self._work.popleft(), event=event)
        return work

    async def _deliver(self, work: Work) -> None:
        outcome = await self.site.tell_until_durable(work.event)
        if isinstance(outcome, Refusal):
            raise RequestRefused(outcome)
        if work.done is not None:
            work.done()

    async def _leave(self, reason: str, moved_s: float) -> None:
        """Tell the brain once that the name has lost its session, unless another one speaks for it already."""
        if not self.name:
            return
        event, broke_s = self.lost(reason), self.site.loop.time()
        async with self.registry.lock(self.name):
            if self.registry.current.get(self.name) is not self:
                return
            del self.registry.current[self.name]
        self.note("session_ended", reason=reason)
        if moved_s:
            await asyncio.sleep(moved_s)
        await self._tell_lost(event, broke_s)

    async def _tell_lost(self, event: Observation, broke_s: float) -> None:
        outcome: Outcome = Refusal("unavailable", "", "")
        while isinstance(outcome, Refusal) and outcome.code == "unavailable" and not self.site.stopping:
            async with self.registry.lock(self.name):
                if self.name in self.registry.current:
                    return
                outcome = await self.site.tell(event)
            if isinstance(outcome, Refusal):
                await asyncio.sleep(0.5)
            else:
                self.site.metrics.detected(Failure.SESSION, seconds(self.site.loop.time() - broke_s))


def _nobody() -> None:
    """Before a carrier has the session nobody writes."""
