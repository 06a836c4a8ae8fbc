"""A session on a stream of its own: one reader, one writer.

The reader is never cancelled and never timed (a cancelled read leaks inside grpc): when the call ends, its read returns
by itself.
"""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from grpc import aio

from controlplane.core.draft import Refusal
from controlplane.core.identity import AGENT_KINDS
from controlplane.observability.offenders import FLOOD
from controlplane.rpc.errors import RequestRefused
from controlplane.rpc.guard import Context, read_message
from controlplane.rpc.pace import Pace
from controlplane.rpc.sessions import Session

PAUSE_LIMIT_S = 5.0
LAST_WRITE_S = 1.0
"""A peer that does not take one more message in this time gets its status without."""


class OwnStream:
    """Carries one session over one call, to its end."""

    def __init__(self, session: Session, context: Context) -> None:
        self._session = session
        self._context = context
        self._wake = asyncio.Event()
        self._writing = False
        session.wake = self._wake.set

    async def run(self) -> None:
        """Serve the stream until either side ends it.

        Raises:
            RequestRefused: we end it.
        """
        session = self._session
        site = session.site
        reader = asyncio.create_task(self._read(), name=f"{session.kind} reader")
        writer = asyncio.create_task(self._write(), name=f"{session.kind} writer")
        hello = site.loop.call_later(site.settings.hello_ms / 1000, self._late_hello)
        reason = "the stream was reset"
        try:
            ends: set[asyncio.Future[Any]] = {reader, writer, session.closing}
            with site.calls.hold(session.caller, session.end, site.now_ns):
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await self._last_write(writer)
            _raise_from(reader, writer)
            if session.closing.done():
                _raise(session.closing.result())
            reason = "the agent closed its stream"
        except RequestRefused as error:
            reason, error.who = error.refusal.message, session.said
            raise
        finally:
            hello.cancel()
            if not self._writing:
                writer.cancel()
            for task in (reader, writer):
                task.add_done_callback(_settle)
            session.close(reason)

    async def _read(self) -> None:
        session = self._session
        if session.caller.kind in AGENT_KINDS:  # its certificate says who it is: not even its hello is read too often
            await session.admit(session.caller.subject)
        message = await read_message(self._context)
        if message is None:
            return
        await session.greet(message)
        while not session.ended:
            message = await read_message(self._context)
            if message is None:
                return
            session.handle(message)
            if session.pace is not None and not session.pace.charge():
                await self._rest(session.pace)
            if session.waiting >= session.site.settings.report_queue:
                await self._pause()

    async def _rest(self, pace: Pace) -> None:
        """Read no further until the peer's messages have come down to its rate: what it sends meanwhile waits with it."""
        text = f"more than {pace.rate_per_s:g} messages a second: it is read no faster than that"
        self._session.offence(FLOOD, text)
        while not self._session.ended and (rest_s := pace.rest_s()):
            await asyncio.sleep(rest_s)

    async def _pause(self) -> None:
        """Read no further until the brain has caught up; a peer that waits too long is cut, its beats wait too."""
        try:
            async with asyncio.timeout(PAUSE_LIMIT_S):
                await self._session.room()
        except TimeoutError:
            self._session.end(self._session.backlog())

    async def _write(self) -> None:
        session = self._session
        while not session.ended:
            instruction = session.next_instruction()
            if instruction is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._writing = True
            watched = session.site.writes.watch(self._stuck)
            try:
                await self._context.write(instruction)
            except (aio.BaseError, asyncio.InvalidStateError):
                return  # the call has ended; the reader says how
            finally:
                session.site.writes.done(watched)
                self._writing = False

    async def _last_write(self, writer: asyncio.Task[None]) -> None:
        """Let the write under way end before a status is sent: cut short, grpc sends the headers twice and no status."""
        self._session.ended = True
        if self._writing:
            await asyncio.wait({writer}, timeout=LAST_WRITE_S)

    def _stuck(self, limit_s: float) -> None:
        self._session.end(self._session.slow(f"has read nothing for {limit_s:g} s"))

    def _late_hello(self) -> None:
        if not self._session.name:
            text = f"no hello within {self._session.site.settings.hello_ms} ms: the first message must be one"
            self._session.end(Refusal("invalid", "NO_HELLO", text))


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
