"""The agent's session with the controller: dial, hello, welcome, then beats and reports up, effects down.

Everything that goes up is drawn, when the stream can take it, from state that is bounded by itself: one beat, the
report outbox, the results. Nothing is queued in between, so a slow stream makes messages fewer, not older.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import structlog
from grpc import aio
from phalanx.v1 import agent_pb2, agent_pb2_grpc

from agents.node.durable import AgentMemory
from agents.node.effects import Effects
from agents.node.logs import LogStreams
from agents.node.loop_lag import LoopLag
from agents.node.observability import name_process
from agents.node.orphans import OrphanWatch
from agents.node.state import NodeState

FIRST_RETRY_S = 0.1
LAST_RETRY_S = 5.0
STEADY_AFTER_S = 5.0
WELCOME_LIMIT_S = 10.0
CLOSE_LIMIT_S = 1.0
DEFAULT_BEAT_INTERVAL_MS = 1000
MIN_BEAT_INTERVAL_MS = 20

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # grpc core waits this long for the answer to a ping, 60 s by default, whatever keepalive_timeout_ms says: measured
    # against a stopped controller, 70 s until the session ended without it.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A channel lives for one session, with a connection of its own; the back-off between sessions is ours.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
)

SessionCall = aio.StreamStreamCall[agent_pb2.AgentMessage, agent_pb2.AgentInstruction]

log = structlog.get_logger(__name__)


class StaleControllerError(Exception):
    """The controller that answered has a lower epoch than one which this node has already obeyed."""


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


class ControllerSession:
    """Keeps a session open, again and again, until cancelled."""

    def __init__(
        self,
        controller: str,
        *,
        boot_id: str,
        hello: Callable[[], agent_pb2.AgentHello],
        state: NodeState,
        memory: AgentMemory,
        effects: Effects,
        logs: LogStreams,
        orphans: OrphanWatch,
        lag: LoopLag,
        on_confirmed: Callable[[int], None],
    ) -> None:
        self._controller = controller
        self._boot_id = boot_id
        self._hello = hello
        self._state = state
        self._memory = memory
        self._effects = effects
        self._logs = logs
        self._orphans = orphans
        self._lag = lag
        self._on_confirmed = on_confirmed
        self._welcomed_at: float | None = None
        self._ended_at: float | None = None
        self._beat_interval_ms = DEFAULT_BEAT_INTERVAL_MS
        self._beat_due = False
        self._beats = 0

    async def run(self) -> None:
        """Dial, serve, back off, until cancelled."""
        backoff = Backoff()
        while True:
            self._welcomed_at = None
            reason = await self._one_session()
            now = time.monotonic()
            lasted_s = 0.0
            if self._welcomed_at is not None:
                self._ended_at = now
                lasted_s = now - self._welcomed_at
            self._orphans.controller_away()
            delay_s = backoff.next_s(lasted_s)
            left_s = self._orphans.left_s(now)
            if lasted_s or self._state.counters.first("session", reason):
                log.warning(
                    "session.ended",
                    reason=reason,
                    retry_in_s=round(delay_s, 2),
                    orphan_grace_left_s=round(left_s, 1) if left_s is not None else None,
                )
            await asyncio.sleep(delay_s)

    async def _one_session(self) -> str:
        """One session from dial to end; returns why it ended."""
        channel = aio.insecure_channel(self._controller, options=CHANNEL_OPTIONS)
        call: SessionCall | None = None
        helpers: list[asyncio.Task[None]] = []
        welcome_timer: asyncio.TimerHandle | None = None
        try:
            stub = agent_pb2_grpc.AgentServiceStub(channel)
            call = stub.Session()
            # A read is never given a time limit (cancelling one leaks); the call as a whole is cancelled instead.
            welcome_timer = asyncio.get_running_loop().call_later(WELCOME_LIMIT_S, call.cancel)
            await call.write(agent_pb2.AgentMessage(hello=self._hello_now()))
            welcome = await self._read_welcome(call)
            welcome_timer.cancel()
            self._obey(welcome)
            helpers = [asyncio.create_task(self._write(call)), asyncio.create_task(self._tick())]
            await self._read(call, stub)
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
            await self._logs.close()
            if call is not None:
                call.cancel()
            await channel.close()
        return "the controller closed the session"

    def _hello_now(self) -> agent_pb2.AgentHello:
        hello = self._hello()
        hello.boot_id = self._boot_id
        hello.highest_epoch = self._memory.highest_epoch
        hello.snapshot.CopyFrom(self._state.outbox.hello_snapshot(time.monotonic()))
        return hello

    async def _read_welcome(self, call: SessionCall) -> agent_pb2.Welcome:
        instruction = await call.read()
        if instruction is aio.EOF:
            raise StaleControllerError("the controller closed the session before its welcome")
        assert isinstance(instruction, agent_pb2.AgentInstruction)  # EOF is the only other value
        if instruction.WhichOneof("body") != "welcome":
            raise StaleControllerError("the controller's first message was not a welcome")
        return instruction.welcome

    def _obey(self, welcome: agent_pb2.Welcome) -> None:
        if welcome.epoch < self._memory.highest_epoch:
            self._state.counters.add("welcomes_of_lower_epoch")
            raise StaleControllerError(
                f"the controller has epoch {welcome.epoch}, this node already obeys {self._memory.highest_epoch}"
            )
        self._memory.obey(welcome.epoch, welcome.orphan_grace_ms)
        name_process(epoch=welcome.epoch)
        self._beat_interval_ms = max(MIN_BEAT_INTERVAL_MS, welcome.beat_interval_ms or DEFAULT_BEAT_INTERVAL_MS)
        self._welcomed_at = time.monotonic()
        self._effects.outcomes.new_session(self._ended_at)
        self._orphans.controller_here()
        log.info(
            "session.welcomed",
            epoch=welcome.epoch,
            controller_version=welcome.controller_version or "before 0.2",
            beat_interval_ms=self._beat_interval_ms,
            lease_ms=welcome.lease_ms,
            orphan_grace_ms=self._memory.orphan_grace_ms,
        )

    async def _read(self, call: SessionCall, stub: agent_pb2_grpc.AgentServiceAsyncStub) -> None:
        while True:
            instruction = await call.read()
            if instruction is aio.EOF:
                # Only after a clean end: grpc raises for any other status.
                return
            assert isinstance(instruction, agent_pb2.AgentInstruction)  # EOF is the only other value
            self._handle(instruction, stub)

    def _handle(self, instruction: agent_pb2.AgentInstruction, stub: agent_pb2_grpc.AgentServiceAsyncStub) -> None:
        match instruction.WhichOneof("body"):
            case "welcome":
                self._obey(instruction.welcome)
            case "report_ack":
                self._on_confirmed(instruction.report_ack.sequence)
                self._state.wake.set()
            case "effect":
                self._effects.submit(instruction.effect)
            case "snapshot_request":
                self._state.outbox.request_full()
                self._state.wake.set()
            case "open_log":
                self._logs.open(stub, instruction.open_log)
            case None:
                self._state.counters.add("instructions_not_understood")

    async def _write(self, call: SessionCall) -> None:
        """Send what is due: the beat first, then reports, then results, so that an end is told before its fence."""
        try:
            while True:
                message = self._next_message()
                if message is None:
                    await self._state.wake.wait()
                    self._state.wake.clear()
                    continue
                await call.write(message)
        except (aio.AioRpcError, asyncio.InvalidStateError):
            # The reader learns the same from its read, with the status.
            return

    def _next_message(self) -> agent_pb2.AgentMessage | None:
        if self._beat_due:
            self._beat_due = False
            self._beats += 1
            beat = agent_pb2.Beat(
                sequence=self._beats, loop_lag_s=self._lag.take_s(), progress=self._state.progress_rows()
            )
            return agent_pb2.AgentMessage(beat=beat)
        report = self._state.outbox.next_report(time.monotonic())
        if report is not None:
            return agent_pb2.AgentMessage(report=report)
        result = self._effects.outcomes.next_result()
        if result is not None:
            return agent_pb2.AgentMessage(effect_result=result)
        return None

    async def _tick(self) -> None:
        """Make a beat due at the dictated interval. A late loop sends one beat, not the missed ones."""
        loop = asyncio.get_running_loop()
        due_at = loop.time()
        while True:
            self._beat_due = True
            self._state.wake.set()
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
