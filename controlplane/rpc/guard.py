"""Around every call: who calls and may it, message limits, a deadline, refusals as statuses, a log line per mutating call."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import grpc
import structlog
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError
from grpc import aio
from phalanx.v1 import agent_pb2, relay_pb2
from structlog.contextvars import bind_contextvars

from controlplane.core.draft import Refusal
from controlplane.observability import Metrics
from controlplane.rpc.access import Access, check
from controlplane.rpc.caller import CALLER, Caller
from controlplane.rpc.errors import RequestRefused, message_of, metadata_of, status_of
from controlplane.rpc.field_count import MOST_FIELDS, too_many_fields
from controlplane.rpc.offences import note_refusal
from controlplane.rpc.open_calls import OpenCalls
from controlplane.rpc.turns import Turns

OURS = "/phalanx.v1."
KIB, MIB = 1 << 10, 1 << 20
DEFAULT_LIMIT = 64 * KIB
LIMITS: Mapping[str, int] = {
    "AgentService/Session": 8 * MIB,  # a snapshot of a node with hundreds of processes and their last output
    "AgentService/PushLog": 128 * KIB,  # chunks of 64 KiB
    "RelayService/Session": 9 * MIB,  # one of a node agent's messages, wrapped
    "CellService/Session": 8 * MIB,  # the actors of 250 nodes
    "JobService/SubmitJob": MIB,
    "CodeService/UploadCode": 128 * KIB,  # chunks of 64 KiB
}
"""Largest request message by method, bytes."""
COUNTED: Mapping[str, Descriptor] = {
    "AgentService/Session": agent_pb2.AgentMessage.DESCRIPTOR,
    "RelayService/Session": relay_pb2.RelayMessage.DESCRIPTOR,
}
"""Methods whose messages are large and come from many: their fields are counted before they are parsed."""

if TYPE_CHECKING:  # grpc's classes are generic in its stubs only
    Context = aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
else:
    Context = aio.ServicerContext
    Handler = grpc.RpcMethodHandler

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands in for a message that is too large or no message of its type."""

    reason: str
    message: str

    def refusal(self) -> Refusal:
        """What the sender is told."""
        return Refusal("invalid", self.reason, self.message)


class Guard(aio.ServerInterceptor):
    """Wraps every method of `phalanx.v1`.

    Reflection and health pass: TLS has let in only who has a certificate of the site (the join port serves neither).
    """

    def __init__(self, metrics: Metrics, deadline_ms: int, access: Access, calls: OpenCalls) -> None:
        self._metrics = metrics
        self._deadline_s = deadline_ms / 1000
        self._access = access
        self._calls = calls
        self._turns = Turns()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        name = str(handler_call_details.method)
        if handler is None:
            return grpc.stream_stream_rpc_method_handler(cast("Any", self._unknown(name)))
        if not name.startswith(OURS):
            return handler
        method = name.removeprefix(OURS)
        read = self._reader(method, cast("Callable[[bytes], Any]", handler.request_deserializer))
        write = handler.response_serializer
        if handler.request_streaming:
            if handler.response_streaming:
                behaviour = self._streaming(method, cast("Any", handler.stream_stream))
                return grpc.stream_stream_rpc_method_handler(cast("Any", behaviour), read, write)
            behaviour = self._streaming(method, cast("Any", handler.stream_unary))
            return grpc.stream_unary_rpc_method_handler(cast("Any", behaviour), read, write)
        if handler.response_streaming:
            watch = self._watching(method, cast("Any", handler.unary_stream))
            return grpc.unary_stream_rpc_method_handler(cast("Any", watch), read, write)
        unary = self._unary(method, cast("Any", handler.unary_unary))
        return grpc.unary_unary_rpc_method_handler(cast("Any", unary), read, write)

    def _reader(self, method: str, parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        limit, shape = LIMITS.get(method, DEFAULT_LIMIT), COUNTED.get(method)

        def read(raw: bytes) -> Any:
            if len(raw) > limit:
                text = f"a message of {method} may have {limit} bytes, this one has {len(raw)}"
                return Unreadable("MESSAGE_TOO_LARGE", text)
            if shape is not None and too_many_fields(raw, shape):
                text = f"a message of {method} may have {MOST_FIELDS} fields, this one of {len(raw)} bytes has more"
                return Unreadable("MESSAGE_TOO_LARGE", text)
            try:
                return parse(raw)
            except DecodeError as error:
                return Unreadable("MALFORMED_MESSAGE", f"this is no request of {method}: {error}")

        return read

    def _unary(self, method: str, behaviour: Callable[[Any, Context], Awaitable[Any]]) -> Any:
        async def call(request: Any, context: Context) -> Any:
            _note_call(method, request)
            began = time.monotonic()
            peer, code = context.peer(), "OK"
            try:
                await self._admit(method, context, peer)
                _check(request)
                async with asyncio.timeout(_limit_s(context, self._deadline_s)):
                    return await behaviour(request, context)
            except RequestRefused as error:
                code = status_of(error.refusal).name
                await self._abort(method, context, peer, error)
            except TimeoutError:
                code = "DEADLINE_EXCEEDED"
                text = f"{method} took longer than {self._deadline_s:g} s; what it asked for may still happen"
                await self._abort(method, context, peer, RequestRefused(Refusal("too_late", "DEADLINE", text)))
            except Exception:  # noqa: BLE001 - process edge: a defect in one call must not reach the others
                code = "INTERNAL"
                await self._broke(method, context, peer)
            finally:
                _log_mutation(request, code, began)

        return call

    def _watching(self, method: str, behaviour: Callable[[Any, Context], AsyncIterator[Any]]) -> Any:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            _note_call(method, request)
            peer = context.peer()
            try:
                caller = await self._admit(method, context, peer)
                _check(request)
                ending: asyncio.Future[Refusal] = asyncio.get_running_loop().create_future()
                with self._calls.hold(caller, partial(resolve, ending), self._access.now_ns):
                    async for response in _until(ending, behaviour(request, context)):
                        yield response
            except RequestRefused as error:
                await self._abort(method, context, peer, error)
            except Exception:  # noqa: BLE001 - process edge: a defect in one call must not reach the others
                await self._broke(method, context, peer)

        return call

    def _streaming(self, method: str, behaviour: Callable[[Any, Context], Awaitable[Any]]) -> Any:
        assert inspect.iscoroutinefunction(behaviour)

        async def call(requests: Any, context: Context) -> Any:
            _note_call(method)
            peer = context.peer()
            try:
                await self._admit(method, context, peer)
                return await behaviour(requests, context)
            except RequestRefused as error:
                await self._abort(method, context, peer, error)
            except Exception:  # noqa: BLE001 - process edge: a defect in one call must not reach the others
                await self._broke(method, context, peer)

        return call

    def _unknown(self, name: str) -> Any:
        async def call(requests: Any, context: Context) -> None:
            del requests
            shown = name[:200]
            _note_call(shown)
            peer = context.peer()
            with suppress(RequestRefused):  # what nobody serves is the answer to anybody
                await self._admit(shown, context, peer)
            refusal = Refusal("invalid", "UNKNOWN_METHOD", f"this controller has no method {shown}")
            self._metrics.refuse(refusal.reason)
            note_refusal(self._metrics, CALLER.get(), "", refusal)
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, refusal.message)

        return call

    async def _admit(self, method: str, context: Context, peer: str) -> Caller:
        """The caller, who may make this call, once it is its turn. Whoever is refused has been noted as the caller all the
        same, and has waited as long.

        `peer` was read once, at the call's start: grpc may crash when it is asked for the peer of a call that has ended.
        """
        try:
            caller = self._access.caller(context, peer, _note_caller)
            check(method, caller)
        finally:
            await self._turns.wait(CALLER.get())
        return caller

    async def _abort(self, method: str, context: Context, peer: str, error: RequestRefused) -> None:
        refusal, caller = error.refusal, CALLER.get()
        self._metrics.refuse(refusal.reason)
        note_refusal(self._metrics, caller, error.who, refusal)
        # Without the port: who dials again is the same one.
        who = f"{error.who or caller.uri} {peer.rpartition(':')[0]}"
        if self._metrics.first(method, f"{who} {refusal.reason}"):
            log.warning(
                "request_refused",
                reason=refusal.reason,
                message=message_of(refusal),
                peer=peer,
            )
        await context.abort(status_of(refusal), message_of(refusal), (*metadata_of(refusal), *error.metadata))

    async def _broke(self, method: str, context: Context, peer: str) -> None:
        log.exception("request_broke")
        self._metrics.refuse("INTERNAL")
        text = f"{method} failed by a defect of the controller; its log has the details"
        await self._abort(method, context, peer, RequestRefused(Refusal("internal", "INTERNAL", text)))


def resolve(ending: asyncio.Future[Refusal], refusal: Refusal) -> None:
    """Set what ends a stream, once."""
    if not ending.done():
        ending.set_result(refusal)


async def _until(ending: asyncio.Future[Refusal], responses: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """What a watch yields, until it ends by itself or is ended.

    Raises:
        RequestRefused: it is ended.
    """
    while True:
        step: asyncio.Future[Any] = asyncio.ensure_future(_next(responses))
        try:
            await asyncio.wait({step, ending}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await _dropped(step)
            raise
        if ending.done():
            await _dropped(step)
            raise RequestRefused(ending.result())
        response = step.result()
        if response is None:
            return
        yield response


async def _dropped(step: asyncio.Future[Any]) -> None:
    """Nobody wants this step any more, nor what it ended with. Nothing is read in it, so it may be cancelled."""
    step.cancel()
    await asyncio.gather(step, return_exceptions=True)


async def _next(responses: AsyncIterator[Any]) -> Any:
    return await anext(responses, None)


async def read_message(context: Context) -> Any:
    """The next message of a stream, None at its end. Never put a time limit around this: a cancelled read leaks.

    Raises:
        RequestRefused: the message cannot be read.
    """
    message = await context.read()
    if message is aio.EOF:
        return None
    _check(message)
    return message


def _check(request: object) -> None:
    if isinstance(request, Unreadable):
        raise RequestRefused(request.refusal())


def _note_call(method: str, request: object = None) -> None:
    """Every further log line of this call's task says which call it is."""
    about = {"method": method}
    request_id = getattr(request, "request_id", "")
    if request_id:
        about["request_id"] = request_id[:128]
    bind_contextvars(**about)


def _note_caller(caller: Caller) -> None:
    """And whose."""
    CALLER.set(caller)
    bind_contextvars(caller=caller.uri)


def _limit_s(context: Context, default_s: float) -> float | None:
    """Our limit when the caller set none; grpc itself ends a call whose deadline has passed."""
    left_s = cast("float | None", context.time_remaining())
    return default_s if left_s is None or not math.isfinite(left_s) or left_s > default_s else None


def _log_mutation(request: object, code: str, began: float) -> None:
    if getattr(request, "request_id", ""):
        took_ms = round((time.monotonic() - began) * 1000, 1)
        log.info("request_done", code=code, took_ms=took_ms)
