"""The agent's session with the controller: dial, hello, welcome, then beats and reports up, effects down.

Everything that goes up is drawn, when the stream can take it, from state that is bounded by itself. Nothing is queued
in between, so a slow stream makes messages fewer, not older.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import structlog
from grpc import aio
from phalanx.v1 import agent_pb2, cell_pb2, cell_pb2_grpc

from agents.cell.table import CellTable
from agents.node.loop_lag import LoopLag
from agents.node.outcomes import OutcomeMemory

FIRST_RETRY_S = 0.1
LAST_RETRY_S = 5.0
STEADY_AFTER_S = 5.0
WELCOME_LIMIT_S = 10.0
CLOSE_LIMIT_S = 1.0
RESEND_CHECK_S = 1.0
DEFAULT_BEAT_INTERVAL_MS = 1000
MIN_BEAT_INTERVAL_MS = 20
PREFLIGHT_LIMIT = 64

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A channel lives for one session, with a connection of its own; the back-off between sessions is ours.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
)

SessionCall = aio.StreamStreamCall[cell_pb2.CellMessage, cell_pb2.CellInstruction]

log = structlog.get_logger(__name__)


class StaleControllerError(Exception):
    """The controller that answered has a lower epoch than one which this cell has already obeyed."""


class Orders(Protocol):
    """What is done with instructions of the controller."""

    outcomes: OutcomeMemory
    highest_epoch: int

    def obey_epoch(self, epoch: int) -> None:
        """Remember a controller's epoch, which is not lower than the highest."""

    def submit(self, effect: cell_pb2.CellEffect) -> None:
        """Carry out an effect; its outcome becomes due in `outcomes`."""

    def preflight(self, request: cell_pb2.PreflightRequest) -> None:
        """Check a workload; the answer goes to `ControllerSession.answer_preflight`."""


class ControllerSession:
    """Keeps a session open, again and again, until cancelled."""

    def __init__(
        self,
        controller: str,
        *,
        hello: Callable[[], cell_pb2.CellHello],
        table: CellTable,
        orders: Orders,
        lag: LoopLag,
    ) -> None:
        self._controller = controller
        self._hello = hello
        self._table = table
        self._orders = orders
        self._lag = lag
        self._wake = asyncio.Event()
        self._welcomed_at: float | None = None
        self._ended_at: float | None = None
        self._reason_logged = ""
        self._beat_interval_ms = DEFAULT_BEAT_INTERVAL_MS
        self._beat_due = False
        self._beats = 0
        # A result has no acknowledgement and its asker waits on this session: it is not kept for another one.
        self._preflights: deque[cell_pb2.PreflightResult] = deque(maxlen=PREFLIGHT_LIMIT)

    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()

    def answer_preflight(self, result: cell_pb2.PreflightResult) -> None:
        """Send the result."""
        self._preflights.append(result)
        self._wake.set()

    async def run(self) -> None:
        """Dial, serve, back off, until cancelled."""
        ceiling_s = FIRST_RETRY_S
        while True:
            self._welcomed_at = None
            reason = await self._one_session()
            now = time.monotonic()
            lasted_s = 0.0
            if self._welcomed_at is not None:
                self._ended_at = now
                lasted_s = now - self._welcomed_at
            if lasted_s >= STEADY_AFTER_S:
                ceiling_s = FIRST_RETRY_S
            delay_s = max(FIRST_RETRY_S, random.uniform(0.5, 1.0) * ceiling_s)
            ceiling_s = min(ceiling_s * 2, LAST_RETRY_S)
            if lasted_s or reason != self._reason_logged:
                log.warning("session.ended", reason=reason, retry_in_s=round(delay_s, 2))
                self._reason_logged = reason
            await asyncio.sleep(delay_s)

    async def _one_session(self) -> str:
        """One session from dial to end; returns why it ended."""
        channel = aio.insecure_channel(self._controller, options=CHANNEL_OPTIONS)
        call: SessionCall | None = None
        helpers: list[asyncio.Task[None]] = []
        welcome_timer: asyncio.TimerHandle | None = None
        try:
            call = cell_pb2_grpc.CellServiceStub(channel).Session()
            # A read is never given a time limit (cancelling one leaks); the call as a whole is cancelled instead.
            welcome_timer = asyncio.get_running_loop().call_later(WELCOME_LIMIT_S, call.cancel)
            hello = self._hello()
            hello.snapshot.CopyFrom(self._table.hello_snapshot(time.monotonic()))
            await call.write(cell_pb2.CellMessage(hello=hello))
            await self._read_welcome(call)
            welcome_timer.cancel()
            helpers = [asyncio.create_task(self._write(call)), asyncio.create_task(self._tick())]
            await self._read(call)
        except aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        except StaleControllerError as error:
            return str(error)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                if call is not None and self._welcomed_at is not None:
                    await _half_close(call, helpers)
                raise
            # Without a cancelled task, the call was: by our timer, or by the other side.
            return "the call was cancelled" if self._welcomed_at is not None else "no welcome in time"
        except asyncio.InvalidStateError:
            return "the controller ended the call at once"
        finally:
            if welcome_timer is not None:
                welcome_timer.cancel()
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            self._preflights.clear()
            if call is not None:
                call.cancel()
            await channel.close()
        return "the controller closed the session"

    async def _read_welcome(self, call: SessionCall) -> None:
        instruction = await call.read()
        if instruction is aio.EOF:
            raise StaleControllerError("the controller closed the session before its welcome")
        assert isinstance(instruction, cell_pb2.CellInstruction)  # EOF is the only other value
        if instruction.WhichOneof("body") != "welcome":
            raise StaleControllerError("the controller's first message was not a welcome")
        self._obey(instruction.welcome)

    def _obey(self, welcome: agent_pb2.Welcome) -> None:
        highest = self._orders.highest_epoch
        if welcome.epoch < highest:
            raise StaleControllerError(f"the controller has epoch {welcome.epoch}, this cell already obeys {highest}")
        self._orders.obey_epoch(welcome.epoch)
        self._beat_interval_ms = max(MIN_BEAT_INTERVAL_MS, welcome.beat_interval_ms or DEFAULT_BEAT_INTERVAL_MS)
        self._welcomed_at = time.monotonic()
        self._reason_logged = ""
        self._orders.outcomes.new_session(self._ended_at)
        log.info(
            "session.welcomed",
            epoch=welcome.epoch,
            controller_version=welcome.controller_version or "before 0.2",
            beat_interval_ms=self._beat_interval_ms,
        )

    async def _read(self, call: SessionCall) -> None:
        while True:
            instruction = await call.read()
            if instruction is aio.EOF:
                # Only after a clean end: grpc raises for any other status.
                return
            assert isinstance(instruction, cell_pb2.CellInstruction)  # EOF is the only other value
            self._handle(instruction)

    def _handle(self, instruction: cell_pb2.CellInstruction) -> None:
        match instruction.WhichOneof("body"):
            case "welcome":
                self._obey(instruction.welcome)
            case "report_ack":
                self._table.acknowledge(instruction.report_ack.sequence, time.monotonic())
            case "effect":
                self._orders.submit(instruction.effect)
            case "snapshot_request":
                self._table.request_full()
            case "preflight":
                self._orders.preflight(instruction.preflight)
            case None:
                log.warning("session.instruction_not_understood")
        self._wake.set()

    async def _write(self, call: SessionCall) -> None:
        """Send what is due: the beat first, then reports, then results, so that a row is told before its effect."""
        try:
            while True:
                message = self._next_message()
                if message is None:
                    await self._wake.wait()
                    self._wake.clear()
                    continue
                await call.write(message)
        except (aio.AioRpcError, asyncio.InvalidStateError):
            # The reader learns the same from its read, with the status.
            return

    def _next_message(self) -> cell_pb2.CellMessage | None:
        if self._beat_due:
            self._beat_due = False
            self._beats += 1
            return cell_pb2.CellMessage(beat=cell_pb2.CellBeat(sequence=self._beats, loop_lag_s=self._lag.take_s()))
        report = self._table.next_report(time.monotonic())
        if report is not None:
            return cell_pb2.CellMessage(report=report)
        result = self._orders.outcomes.next_result()
        if result is not None:
            return cell_pb2.CellMessage(effect_result=result)
        if self._preflights:
            return cell_pb2.CellMessage(preflight_result=self._preflights.popleft())
        return None

    async def _tick(self) -> None:
        """Make a beat due at the dictated interval. A late loop sends one beat, not the missed ones."""
        loop = asyncio.get_running_loop()
        due_at = loop.time()
        while True:
            self._beat_due = True
            self._wake.set()
            due_at = max(due_at + self._beat_interval_ms / 1000, loop.time())
            await asyncio.sleep(due_at - loop.time())


async def _half_close(call: SessionCall, helpers: list[asyncio.Task[None]]) -> None:
    """End our side in order, so that the controller sees a clean close. Bounded: this is no read."""
    for helper in helpers:
        helper.cancel()
    await asyncio.gather(*helpers, return_exceptions=True)
    try:
        await asyncio.wait_for(call.done_writing(), CLOSE_LIMIT_S)
    except (TimeoutError, aio.AioRpcError, asyncio.InvalidStateError):
        return
