"""The agents' side of a relay: AgentService as node agents know it, on messages that mostly pass unread.

Reads are never cancelled and never timed (a cancelled read leaks inside grpc): when a call ends, its read returns by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, NoReturn

import grpc
import structlog
from cryptography import x509
from google.protobuf.message import DecodeError
from grpc import aio
from phalanx.v1 import agent_pb2

from agents.node.boot import KNOWN_BOOT_KEY
from agents.node.observability import Counters
from agents.relay.field_count import MOST_FIELDS, too_many_fields
from agents.relay.link import GONE, RelayLink
from agents.relay.slots import SLOTS, Ending, NodeStream

SESSION = "/phalanx.v1.AgentService/Session"
PUSH_LOG = "/phalanx.v1.AgentService/PushLog"
HELLO_LIMIT_S = 10.0
WRITE_LIMIT_S = 10.0
LAST_WRITE_S = 1.0
"""A peer that does not take one more message in this time gets its status without."""
REASON_KEY = "phalanx-reason"
HOLD_S, MAX_HELD = 1.0, 256
"""Who sends what nobody sends waits so long for its refusal, so many streams at a time."""
MOST_BYTES = 8 << 20
"""Of one message, as at the controller."""
MOST_PER_S = 500
"""Messages of one agent; honest ones send ten beats and a report."""

log = structlog.get_logger(__name__)


class Door(grpc.GenericRpcHandler):
    """The methods that node agents call. `trusted`: whether names are proven by certificates."""

    def __init__(self, link: RelayLink, counters: Counters, *, trusted: bool) -> None:
        self._link = link
        self._counters = counters
        self._trusted = trusted
        self._held = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """See grpc.GenericRpcHandler. Messages are bytes in both directions."""
        if handler_call_details.method == SESSION:
            return grpc.stream_stream_rpc_method_handler(self._session)
        if handler_call_details.method == PUSH_LOG:
            return grpc.stream_unary_rpc_method_handler(self._push_log)
        return None

    async def _session(self, _requests: Any, context: Any) -> None:
        peer = context.peer().rpartition(":")[0] + ":"
        stream = await self._admit(context, peer)
        reader = asyncio.create_task(self._read(context, stream, peer))
        pen = _Pen(context, stream)
        writer = asyncio.create_task(pen.write())
        reason = "the agent's stream was reset"
        try:
            ends: set[asyncio.Future[Any]] = {reader, writer, stream.closing}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            stream.over = True
            if pen.writing:  # cut short, grpc sends the headers twice and no status
                await asyncio.wait({writer}, timeout=LAST_WRITE_S)
            reason = stream.closing.result().message if stream.closing.done() else "the agent closed its stream"
        finally:
            stream.table.leave(stream, reason)
            if not pen.writing:
                writer.cancel()
            for task in (reader, writer):
                task.add_done_callback(_settle)
        if stream.closing.done():
            await self._refuse(context, stream.closing.result())

    async def _admit(self, context: Any, peer: str) -> NodeStream:
        """The stream of a node that has said hello under its own name."""
        certificate, name = _shown(context) if self._trusted else (b"", "")

        async def bad(status: grpc.StatusCode, reason: str, text: str) -> NoReturn:
            self._link.offences.note(name, peer, reason, text)
            await self._hold()
            await self._refuse(context, Ending(status, text, reason))

        reading = asyncio.create_task(context.read())
        await asyncio.wait({reading}, timeout=HELLO_LIMIT_S)
        if not reading.done():
            reading.add_done_callback(_settle)
            text = f"no hello within {HELLO_LIMIT_S:g} s: the first message must be one"
            await bad(grpc.StatusCode.INVALID_ARGUMENT, "NO_HELLO", text)
        raw = reading.result()
        if raw is aio.EOF:  # it has gone again, which is no offence
            await self._refuse(context, Ending(grpc.StatusCode.INVALID_ARGUMENT, "the stream has ended", "NO_HELLO"))
        problem = too_large(raw)
        if problem:
            await bad(grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_TOO_LARGE", problem)
        message = _parsed(raw)
        if message is None or message.WhichOneof("body") != "hello":
            text = "the first message of a session must be a hello"
            await bad(grpc.StatusCode.INVALID_ARGUMENT, "NO_HELLO", text)
        hello = message.hello
        if self._trusted and name != hello.node:
            text = f"the certificate is of node {name!r}, the hello of {hello.node[:253]!r}"
            await bad(grpc.StatusCode.PERMISSION_DENIED, "NOT_YOUR_NAME", text)
        table = self._link.table
        if table is None:
            await self._refuse(context, GONE)
        await table.room(hello.ByteSize())
        stream = table.open(hello, certificate)
        if stream is None and self._link.table is not table:
            await self._refuse(context, GONE)
        if stream is None:
            text = f"this relay speaks for {SLOTS} nodes already: dial another one"
            await self._refuse(context, Ending(grpc.StatusCode.RESOURCE_EXHAUSTED, text, "RELAY_FULL"))
        return stream

    async def _hold(self) -> None:
        """Wait before a refusal, so that a loop of them costs little."""
        if self._held < MAX_HELD:
            self._held += 1
            try:
                await asyncio.sleep(HOLD_S)
            finally:
                self._held -= 1

    async def _read(self, context: Any, stream: NodeStream, peer: str) -> None:
        pace = Pace()
        while not stream.over:
            raw = await context.read()
            if raw is aio.EOF:
                return
            rest_s = pace.rest_s()
            if rest_s:  # what it sends meanwhile waits with it, and its neighbours are heard
                text = f"more than {MOST_PER_S} messages a second: it is read no faster than that"
                self._link.offences.note(stream.node, peer, "FLOOD", text)
                self._counters.add("floods")
                if self._counters.first("floods", stream.node):
                    log.warning("node.floods", node=stream.node, most_per_s=MOST_PER_S)
                await asyncio.sleep(rest_s)
            text, reason = too_large(raw), "MESSAGE_TOO_LARGE"
            message = None if text else _parsed(raw)
            if message is None:
                if not text:
                    text, reason = "this is no message of a node agent", "MALFORMED_MESSAGE"
                self._link.offences.note(stream.node, peer, reason, text)
                stream.end(Ending(grpc.StatusCode.INVALID_ARGUMENT, text, reason))
                return
            if message.WhichOneof("body") == "beat":
                stream.table.heard(stream, message.beat)
            else:
                await stream.table.pass_on(stream, raw)

    async def _push_log(self, _requests: Any, context: Any) -> bytes:
        """Chunks of one log, handed on as they come; the controller knows for whom they are."""
        channel = self._link.channel
        if channel is None or self._link.table is None:
            await self._refuse(context, GONE)
        call: Any = channel.stream_unary(PUSH_LOG)()
        ended = asyncio.Event()
        call.add_done_callback(lambda _: ended.set())
        copying = asyncio.create_task(_copy(context, call))
        ending = asyncio.create_task(ended.wait())
        try:
            await asyncio.wait({copying, ending}, return_when=asyncio.FIRST_COMPLETED)
            answer: bytes = await call
        except aio.AioRpcError as error:
            reason = dict(error.trailing_metadata() or ()).get(REASON_KEY, "")
            await self._refuse(context, Ending(error.code(), error.details() or "", str(reason)))
        finally:
            ending.cancel()
            copying.add_done_callback(_settle)
            call.cancel()
        return answer

    async def _refuse(self, context: Any, ending: Ending) -> NoReturn:
        self._counters.add(f"refused_{ending.reason.lower()}")
        if self._counters.first("agents", ending.message):
            log.info("node.refused", reason=ending.reason, message=ending.message)
        metadata = tuple(
            (key, value) for key, value in ((REASON_KEY, ending.reason), (KNOWN_BOOT_KEY, ending.known_boot)) if value
        )
        await context.abort(ending.status, ending.message, metadata)
        raise AssertionError("abort raises")


class Pace:
    """How fast one agent is read: so many messages in a second. Looks at the clock once in as many messages."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_s = clock()
        self._count = 0

    def rest_s(self) -> float:
        """A message has come: how long to wait before it is looked at, seconds."""
        self._count += 1
        if self._count < MOST_PER_S:
            return 0.0
        now_s = self._clock()
        rest_s = max(0.0, self._began_s + 1.0 - now_s)
        self._began_s, self._count = now_s + rest_s, 0
        return rest_s


class _Pen:
    """Writes what waits for one agent. One that does not read is cut."""

    def __init__(self, context: Any, stream: NodeStream) -> None:
        self._context = context
        self._stream = stream
        self.writing = False

    async def write(self) -> None:
        """Until the stream is over."""
        stream = self._stream
        text = f"{stream.node} has read nothing for {WRITE_LIMIT_S:g} s: connect again"
        slow = Ending(grpc.StatusCode.RESOURCE_EXHAUSTED, text, "SLOW_READER")
        while not stream.over:
            if not stream.unread:
                stream.wake.clear()
                await stream.wake.wait()
                continue
            self.writing = True
            stuck = asyncio.get_running_loop().call_later(WRITE_LIMIT_S, stream.end, slow)
            try:
                await self._context.write(stream.unread.popleft())
            except (aio.BaseError, asyncio.InvalidStateError):
                return  # the call has ended; the reader says how
            finally:
                stuck.cancel()
                self.writing = False


async def _copy(context: Any, call: Any) -> None:
    try:
        while (raw := await context.read()) is not aio.EOF:
            await call.write(raw)
        await call.done_writing()
    except (aio.AioRpcError, asyncio.InvalidStateError):
        return  # the call upward has ended, and says how


def too_large(raw: bytes) -> str:
    """Why a message is not parsed; "" when it is."""
    if len(raw) > MOST_BYTES:
        return f"a message may have {MOST_BYTES} bytes, this one has {len(raw)}"
    if too_many_fields(raw, agent_pb2.AgentMessage.DESCRIPTOR):
        return f"a message may have {MOST_FIELDS} fields, this one of {len(raw)} bytes has more"
    return ""


def _parsed(raw: Any) -> agent_pb2.AgentMessage | None:
    """A message; None when it is none, or the stream has ended."""
    if raw is aio.EOF:
        return None
    try:
        return agent_pb2.AgentMessage.FromString(raw)
    except DecodeError:
        return None


def _shown(context: Any) -> tuple[bytes, str]:
    """The certificate with which TLS has let the agent in, and the node's name in it; "" when it is no node's."""
    (certificate_pem,) = context.auth_context()["x509_pem_cert"]
    names = x509.load_pem_x509_certificate(certificate_pem).extensions
    shown = names.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = shown.get_values_for_type(x509.UniformResourceIdentifier)
    kind, _, name = uris[0].removeprefix("spiffe://").partition("/")[2].partition("/") if uris else ("", "", "")
    return certificate_pem, name if kind == "node" else ""


def _settle(task: asyncio.Task[Any]) -> None:
    """Look at what a task left behind ended with: the call is over, so nothing of it matters."""
    if not task.cancelled():
        task.exception()
