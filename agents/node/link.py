"""Keeping a session with a controller: dial, hello, welcome, serve, back off. What is said is the subclass's business.

Everything that goes up is drawn, when the stream can take it, from state that is bounded by itself: one beat, the
report outbox, the results. Nothing is queued in between, so a slow stream makes messages fewer, not older.

A renewed certificate needs a new connection. The session is handed over: the new stream is connected, then the old one is
silenced, the new hello goes out, and the controller itself ends the old stream when it welcomes the new one. The name never
is without a session, so nobody suspects it.
"""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
from grpc import aio
from phalanx.v1 import agent_pb2

from agents.node.boot import KNOWN_BOOT_KEY, Boot
from agents.node.dial import Dialer
from agents.node.identity import IdentityError

FIRST_RETRY_S = 0.1
LAST_RETRY_S = 5.0
STEADY_AFTER_S = 5.0
CONNECT_LIMIT_S = 5.0
WELCOME_LIMIT_S = 10.0
RELAY_WELCOME_LIMIT_S = 3.0
"""A relay is near: one that stands still is passed by soon."""
CLOSE_LIMIT_S = 1.0
HANDOVER_RETRY_S = 1.0
DEFAULT_BEAT_INTERVAL_MS = 1000
MIN_BEAT_INTERVAL_MS = 20
MAX_BEAT_INTERVAL_MS = 60_000
"""No welcome makes an agent silent for good: the pause before the next beat is not cut short by a later one."""

log = structlog.get_logger(__name__)


class StaleControllerError(Exception):
    """The controller that answered must not be obeyed, for example for its lower epoch."""


class Backoff:
    """Delays between sessions: doubling, with full jitter above a floor, so that a fleet does not come back at once."""

    def __init__(self) -> None:
        self._ceiling_s = FIRST_RETRY_S

    def next_s(self, session_lasted_s: float) -> float:
        """Seconds to wait now; a session that held for a while starts the series again."""
        if session_lasted_s >= STEADY_AFTER_S:
            self._ceiling_s = FIRST_RETRY_S
        ceiling_s = self._ceiling_s
        self._ceiling_s = min(ceiling_s * 2, LAST_RETRY_S)
        return max(FIRST_RETRY_S, random.uniform(0.5, 1.0) * ceiling_s)


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(eq=False, slots=True)
class _Stream:
    """One stream from dial to end."""

    task: asyncio.Task[str] | None = None
    call: Any = None
    helpers: list[asyncio.Task[None]] = field(default_factory=list)
    welcomed: asyncio.Event = field(default_factory=asyncio.Event)
    welcomed_at: float = 0.0
    silenced: bool = False
    written: asyncio.Event = field(default_factory=_set)
    """No write is under way."""

    async def silence(self) -> None:
        """Send nothing more; what comes down is still heard.

        A write that is under way is let through, within CLOSE_LIMIT_S: grpc ends the whole call when one is cancelled.
        """
        self.silenced = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self.written.wait(), CLOSE_LIMIT_S)
        for helper in self.helpers:
            helper.cancel()
        await asyncio.gather(*self.helpers, return_exceptions=True)

    async def half_close(self) -> None:
        """End our side in order, so that the controller sees a clean close. Bounded: this is no read."""
        await self.silence()
        try:
            await asyncio.wait_for(self.call.done_writing(), CLOSE_LIMIT_S)
        except (TimeoutError, aio.AioRpcError, asyncio.InvalidStateError):
            return


class ControllerLink(ABC):
    """Keeps a session open, again and again, until cancelled. `wake` says that there is something to send; `boot` which life
    of the agent speaks."""

    def __init__(self, dialer: Dialer, wake: asyncio.Event, boot: Boot) -> None:
        self.boot = boot
        self._dialer = dialer
        self._wake = wake
        self._live: _Stream | None = None
        self._streams: set[_Stream] = set()
        self._ended_at: float | None = None
        self._beat_interval_ms = DEFAULT_BEAT_INTERVAL_MS
        self._beat_due = False
        self._beats = 0

    # What subclasses provide

    @abstractmethod
    def open(self, channel: aio.Channel) -> Any:
        """Begin the stream."""

    @abstractmethod
    def hello(self) -> Any:
        """The first message."""

    @abstractmethod
    def next_message(self) -> Any:
        """What to send now, None when nothing is due. The beat first, then reports, then results."""

    @abstractmethod
    def obey(self, welcome: agent_pb2.Welcome) -> None:
        """Take the controller's orders for the session; raises StaleControllerError."""

    @abstractmethod
    def handle(self, instruction: Any) -> None:
        """Carry out anything but a welcome."""

    @abstractmethod
    async def detach(self) -> None:
        """The stream so far is over: end what belongs to it."""

    @abstractmethod
    def ended(self, reason: str, lasted_s: float, retry_in_s: float) -> None:
        """There is no session now; `lasted_s` 0: there was none before either."""

    # The life of sessions

    async def run(self) -> None:
        """Dial, serve, back off, until cancelled."""
        backoff = Backoff()
        stream = self._begin()
        try:
            while True:
                stream = await self._until_over(stream)
                assert stream.task is not None
                reason = stream.task.result()
                now = time.monotonic()
                lasted_s = now - stream.welcomed_at if stream.welcomed_at else 0.0
                if lasted_s:
                    self._ended_at = now
                    self._dialer.lost()
                    delay_s = backoff.next_s(lasted_s)
                elif self._dialer.refused():
                    delay_s = backoff.next_s(0.0)
                else:
                    delay_s = 0.0  # another controller may lead: it is asked at once
                self.ended(reason, lasted_s, delay_s)
                await asyncio.sleep(delay_s)
                stream = self._begin()
        finally:
            for one in tuple(self._streams):
                await _end(one)

    def _begin(self) -> _Stream:
        stream = _Stream()
        stream.task = asyncio.create_task(self._serve(stream))
        self._streams.add(stream)
        stream.task.add_done_callback(lambda _: self._streams.discard(stream))
        return stream

    async def _until_over(self, stream: _Stream) -> _Stream:
        """Wait for the end of the session, which may have been handed over to later streams: returns the last one."""
        membership = self._dialer.membership
        while True:
            assert stream.task is not None
            if membership is None:
                await asyncio.wait({stream.task})
                return stream
            renewed = asyncio.create_task(membership.renewed.wait())
            try:
                await asyncio.wait({stream.task, renewed}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                renewed.cancel()
            if stream.task.done():
                return stream
            membership.renewed.clear()
            if stream is self._live:
                stream = await self._hand_over(stream, membership.renewed)

    async def _hand_over(self, former: _Stream, again: asyncio.Event) -> _Stream:
        """Open a stream beside the present one and let it take over; the one to go on with is returned."""
        successor = self._begin()
        assert successor.task is not None
        assert former.task is not None
        welcomed = asyncio.create_task(successor.welcomed.wait())
        try:
            await asyncio.wait({successor.task, welcomed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            welcomed.cancel()
        if successor.welcomed.is_set() or former.silenced or former.task.done():
            await _end(former)
            return successor
        log.warning("session.not_handed_over", reason=successor.task.result())
        asyncio.get_running_loop().call_later(HANDOVER_RETRY_S, again.set)
        return former

    async def _serve(self, stream: _Stream) -> str:
        """One stream from dial to end; returns why it ended."""
        channel: aio.Channel | None = None
        limit: asyncio.TimerHandle | None = None
        try:
            channel = await self._dialer.channel()
            former = self._live
            if former is not None:
                await asyncio.wait_for(channel.channel_ready(), CONNECT_LIMIT_S)
            stream.call = self.open(channel)
            # A read is never given a time limit (cancelling one leaks); the call as a whole is cancelled instead.
            limit = asyncio.get_running_loop().call_later(
                RELAY_WELCOME_LIMIT_S if self._dialer.relayed else WELCOME_LIMIT_S, stream.call.cancel
            )
            if former is not None:
                await former.silence()
                self._ended_at = time.monotonic()
                await self.detach()
            await stream.call.write(self.hello())
            await self._read_welcome(stream)
            limit.cancel()
            stream.helpers = [asyncio.create_task(self._write(stream)), asyncio.create_task(self._tick())]
            await self._read(stream)
        except aio.AioRpcError as error:
            self.boot.outbid(str(dict(error.trailing_metadata() or ()).get(KNOWN_BOOT_KEY, "")))
            return f"{error.code().name}: {error.details()}"
        except (StaleControllerError, IdentityError) as error:
            return str(error)
        except TimeoutError:
            return f"no connection to {self._dialer.address} within {CONNECT_LIMIT_S:g} s"
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                if stream.welcomed_at and not stream.silenced:
                    await stream.half_close()
                raise
            # Without a cancelled task, the call was: by our timer, or by the other side.
            return "the call was cancelled" if stream.welcomed_at else "no welcome in time"
        except asyncio.InvalidStateError:
            return "the controller ended the call at once"
        finally:
            if limit is not None:
                limit.cancel()
            await self._close(stream, channel)
        return "the controller closed the session"

    async def _close(self, stream: _Stream, channel: aio.Channel | None) -> None:
        handed_over = stream.silenced
        await stream.silence()
        if self._live is stream:
            self._live = None
        if not handed_over:
            await self.detach()
        if stream.call is not None:
            stream.call.cancel()
        if channel is not None:
            await channel.close()

    async def _read_welcome(self, stream: _Stream) -> None:
        instruction = await stream.call.read()
        if instruction is aio.EOF:
            raise StaleControllerError("the controller closed the session before its welcome")
        if instruction.WhichOneof("body") != "welcome":
            raise StaleControllerError("the controller's first message was not a welcome")
        self._obey(instruction.welcome)
        self._dialer.welcomed()
        self.boot.spoken()
        stream.welcomed_at = time.monotonic()
        self._live = stream
        stream.welcomed.set()

    def _obey(self, welcome: agent_pb2.Welcome) -> None:
        self.obey(welcome)
        interval_ms = welcome.beat_interval_ms or DEFAULT_BEAT_INTERVAL_MS
        self._beat_interval_ms = min(MAX_BEAT_INTERVAL_MS, max(MIN_BEAT_INTERVAL_MS, interval_ms))

    async def _read(self, stream: _Stream) -> None:
        while True:
            instruction = await stream.call.read()
            if instruction is aio.EOF:
                # Only after a clean end: grpc raises for any other status.
                return
            if instruction.WhichOneof("body") == "welcome":
                self._obey(instruction.welcome)
            else:
                self.handle(instruction)

    async def _write(self, stream: _Stream) -> None:
        """Send what is due, until the stream is silenced."""
        try:
            while not stream.silenced:
                message = self.next_message()
                if message is None:
                    await self._wake.wait()
                    self._wake.clear()
                    continue
                stream.written.clear()
                await stream.call.write(message)
                stream.written.set()
        except (aio.AioRpcError, asyncio.InvalidStateError):
            # The reader learns the same from its read, with the status.
            return
        finally:
            stream.written.set()

    def beat_due(self, *, early: bool = False) -> int:
        """Number of the beat that is due, 0 when none is. `early`: there is something to tell that the next would miss."""
        if not (self._beat_due or early):
            return 0
        self._beat_due = False
        self._beats += 1
        return self._beats

    async def _tick(self) -> None:
        """Make a beat due at the dictated interval. A late loop sends one beat, not the missed ones."""
        loop = asyncio.get_running_loop()
        due_at = loop.time()
        while True:
            self._beat_due = True
            self._wake.set()
            due_at = max(due_at + self._beat_interval_ms / 1000, loop.time())
            await asyncio.sleep(due_at - loop.time())


async def _end(stream: _Stream) -> None:
    """End a stream and wait until it has closed."""
    if stream.task is not None:
        stream.task.cancel()
        await asyncio.gather(stream.task, return_exceptions=True)
