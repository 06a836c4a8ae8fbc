"""Long-lived streams of agents and cells: one reader, one writer, one worker each, and who speaks for which name.

The reader is never cancelled and never timed (a cancelled read leaks inside grpc): when the call ends, its read returns
by itself. The worker takes observations to the brain one by one, in order, so that an acknowledgement covers all earlier
reports. Whoever wants a session to end says so through `end`; the call then ends with that refusal.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NoReturn
from weakref import WeakValueDictionary

import structlog
from grpc import aio

from controlplane.core.draft import Refusal
from controlplane.core.effects import Effect
from controlplane.core.events import EffectDone, Observation
from controlplane.rpc.caller import CALLER
from controlplane.rpc.effects import Superseded
from controlplane.rpc.errors import RequestRefused
from controlplane.rpc.guard import Context, read_message
from controlplane.rpc.site import Outcome, Site

BATCH = 64
"""Outcomes of effects that go to the brain together."""
PAUSE_LIMIT_S = 5.0
LAST_WRITE_S = 1.0
"""A peer that does not take one more message in this time gets its status without."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Work:
    """An observation on its way to the brain, and what to do once it is durable."""

    event: Observation
    done: Callable[[], None] | None = None


@dataclass(slots=True)
class Registry:
    """Who speaks for a name now. The lock of a name orders hellos and ends."""

    current: dict[str, Conversation] = field(default_factory=dict)
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


class Conversation:
    """One stream from its first message to its end. Subclasses know the messages."""

    kind = "session"
    subject = "name"

    def __init__(self, site: Site, registry: Registry, context: Context) -> None:
        self.site = site
        self.registry = registry
        self.context = context
        self.caller = CALLER.get()
        self.name = ""
        self.boot_id = ""
        self.ended = False
        self._closing: asyncio.Future[Refusal] = site.loop.create_future()
        self._outgoing: deque[Any] = deque()
        self._effects: deque[Effect] = deque()
        self._carried: set[str] = set()
        self._wake = asyncio.Event()
        self._work: asyncio.Queue[Work] = asyncio.Queue()  # bounded by its reader, which pauses
        self._room = asyncio.Event()
        self._writing = False

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

    def send(self, instruction: Any) -> None:
        """Queue an instruction; a peer that leaves too many unread is cut."""
        if len(self._outgoing) >= self.site.settings.session_queue:
            self.end(self._slow(f"has left {len(self._outgoing)} instructions unread"))
            return
        self._outgoing.append(instruction)
        self._wake.set()

    def queue(self, work: Work) -> None:
        """Queue an observation for the brain."""
        self._work.put_nowait(work)

    def end(self, refusal: Refusal) -> None:
        """End the session with a status."""
        if not self._closing.done():
            self._closing.set_result(refusal)

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
        self._wake.set()

    def accept(self) -> None:
        """From now on this session speaks for its name; an earlier one ends."""
        earlier = self.registry.current.get(self.name)
        self.registry.current[self.name] = self
        if earlier is not None:
            text = f"another session of {self.name} has taken over"
            earlier.end(Refusal("conflict", "SESSION_REPLACED", text))

    def note(self, event: str, **fields: object) -> None:
        """A log line about this session; `node` or `cell` holds its name, as in every other line."""
        about = {self.subject: self.name, "boot_id": self.boot_id, "peer": self.caller.peer}
        log.info(event, **about, **fields)

    def effect_result(self, effect_id: str, *, ok: bool, message: str) -> None:
        """An outcome goes to the brain, after the reports that came before it. Outcomes of others' effects are refused."""
        effect = self.site.state.effects.get(effect_id)
        if effect is not None and not self.addressed(effect):
            text = f"{self.name} answers effect {effect_id}, which was sent to {effect.target}"
            raise RequestRefused(Refusal("denied", "NOT_YOUR_NAME", text))
        if effect is not None and effect.group:
            if not ok:
                self.queue(Work(EffectDone(effect_id, ok, message, self.name)))
            return  # that it was done is shown by the ranks, not said by every node
        self.queue(Work(EffectDone(effect_id, ok, message)))

    # The stream

    async def run(self) -> None:
        """Serve the stream until either side ends it.

        Raises:
            RequestRefused: we end it.
        """
        site = self.site
        reader = asyncio.create_task(self._read(), name=f"{self.kind} reader")
        writer = asyncio.create_task(self._write(), name=f"{self.kind} writer")
        worker = asyncio.create_task(self._carry(), name=f"{self.kind} worker")
        hello = site.loop.call_later(site.settings.hello_ms / 1000, self._late_hello)
        reason = "the stream was reset"
        try:
            ends: set[asyncio.Future[Any]] = {reader, writer, worker, self._closing}
            with site.calls.hold(self.caller, self.end, site.now_ns):
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await self._last_write(writer)
            _raise_from(reader, writer, worker)
            if self._closing.done():
                _raise(self._closing.result())
            reason = "the agent closed its stream"
        except RequestRefused as error:
            reason = error.refusal.message
            raise
        finally:
            self.ended = True
            hello.cancel()
            worker.cancel()
            if not self._writing:
                writer.cancel()
            for task in (reader, writer):
                task.add_done_callback(_settle)
            site.spawn(self._leave(reason))

    async def _read(self) -> None:
        message = await read_message(self.context)
        if message is None:
            return
        await self.greet(message)
        while not self.ended:
            message = await read_message(self.context)
            if message is None:
                return
            self.handle(message)
            if self._work.qsize() >= self.site.settings.report_queue:
                await self._pause()

    async def _pause(self) -> None:
        """Read no further until the brain has caught up; a peer that waits too long is cut, its beats wait too."""
        self._room.clear()
        try:
            async with asyncio.timeout(PAUSE_LIMIT_S):
                await self._room.wait()
        except TimeoutError:
            text = f"{self._work.qsize()} reports of {self.name} wait for the controller: connect again"
            self.end(Refusal("exhausted", "BACKLOG", text))

    async def _write(self) -> None:
        limit_s = self.site.settings.write_ms / 1000
        while not self.ended:
            instruction = self._next_instruction()
            if instruction is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._writing = True
            stuck = self.site.loop.call_later(limit_s, self.end, self._slow(f"has read nothing for {limit_s:g} s"))
            try:
                await self.context.write(instruction)
            except (aio.BaseError, asyncio.InvalidStateError):
                return  # the call has ended; the reader says how
            finally:
                stuck.cancel()
                self._writing = False

    def _next_instruction(self) -> Any:
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

    def _slow(self, what: str) -> Refusal:
        return Refusal("exhausted", "SLOW_READER", f"{self.name or 'the peer'} {what}: connect again")

    async def _last_write(self, writer: asyncio.Task[None]) -> None:
        """Let the write under way end before a status is sent: cut short, grpc sends the headers twice and no status."""
        self.ended = True
        if self._writing:
            await asyncio.wait({writer}, timeout=LAST_WRITE_S)

    async def _carry(self) -> None:
        """One report at a time, in order; outcomes of effects that follow each other together."""
        while True:
            batch = [await self._work.get()]
            while isinstance(batch[-1].event, EffectDone) and not self._work.empty() and len(batch) < BATCH:
                batch.append(self._work.get_nowait())
            together = [work for work in batch if isinstance(work.event, EffectDone)]
            await asyncio.gather(*(self._deliver(work) for work in together))
            for work in batch[len(together) :]:
                await self._deliver(work)
            if self._work.qsize() < self.site.settings.report_queue // 2:
                self._room.set()

    async def _deliver(self, work: Work) -> None:
        outcome = await self.site.tell_until_durable(work.event)
        if isinstance(outcome, Refusal):
            raise RequestRefused(outcome)
        if work.done is not None:
            work.done()

    def _late_hello(self) -> None:
        if not self.name:
            text = f"no hello within {self.site.settings.hello_ms} ms: the first message must be one"
            self.end(Refusal("invalid", "NO_HELLO", text))

    async def _leave(self, reason: str) -> None:
        """Tell the brain once that the name has lost its session, unless another one speaks for it already."""
        if not self.name:
            return
        event = self.lost(reason)
        async with self.registry.lock(self.name):
            if self.registry.current.get(self.name) is not self:
                return
            del self.registry.current[self.name]
        self.note("session_ended", reason=reason)
        await self._tell_lost(event)

    async def _tell_lost(self, event: Observation) -> None:
        outcome: Outcome = Refusal("unavailable", "", "")
        while isinstance(outcome, Refusal) and outcome.code == "unavailable" and not self.site.stopping:
            async with self.registry.lock(self.name):
                if self.name in self.registry.current:
                    return
                outcome = await self.site.tell(event)
            if isinstance(outcome, Refusal):
                await asyncio.sleep(0.5)


def _raise_from(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        if task.done():
            task.result()


def _raise(refusal: Refusal) -> NoReturn:
    raise RequestRefused(refusal)


def _settle(task: asyncio.Task[None]) -> None:
    """Look at what a reader left behind ended with: the call is over, so nothing of it matters."""
    if not task.cancelled():
        task.exception()
