"""The node agent's session with the controller: what it says and what it is told."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
from grpc import aio
from phalanx.v1 import agent_pb2, agent_pb2_grpc

from agents.node.boot import Boot
from agents.node.dial import Dialer
from agents.node.durable import AgentMemory
from agents.node.effects import Effects
from agents.node.link import ControllerLink, StaleControllerError
from agents.node.logs import LogStreams
from agents.node.loop_lag import LoopLag
from agents.node.memory.desk import MemoryDesk
from agents.node.observability import name_process
from agents.node.orphans import OrphanWatch
from agents.node.state import NodeState

SessionCall = aio.StreamStreamCall[agent_pb2.AgentMessage, agent_pb2.AgentInstruction]

log = structlog.get_logger(__name__)


class ControllerSession(ControllerLink):
    """Beats, reports and results up; effects and orders for logs down."""

    def __init__(
        self,
        dialer: Dialer,
        *,
        boot: Boot,
        hello: Callable[[], agent_pb2.AgentHello],
        state: NodeState,
        memory: AgentMemory,
        effects: Effects,
        logs: LogStreams,
        orphans: OrphanWatch,
        lag: LoopLag,
        states: MemoryDesk,
        on_confirmed: Callable[[int], None],
    ) -> None:
        super().__init__(dialer, state.wake, boot)
        self._hello = hello
        self._state = state
        self._memory = memory
        self._effects = effects
        self._logs = logs
        self._orphans = orphans
        self._lag = lag
        self._states = states
        self._on_confirmed = on_confirmed
        self._stub: agent_pb2_grpc.AgentServiceAsyncStub | None = None

    def open(self, channel: aio.Channel) -> SessionCall:
        """See ControllerLink."""
        self._stub = agent_pb2_grpc.AgentServiceStub(channel)
        return self._stub.Session()

    def hello(self) -> agent_pb2.AgentMessage:
        """Who we are, and the whole truth of the node."""
        hello = self._hello()
        hello.boot_id = self.boot.id
        hello.highest_epoch = self._memory.highest_epoch
        self._state.progress_anew()
        self._states.tell_anew()
        hello.snapshot.CopyFrom(self._state.outbox.hello_snapshot(time.monotonic()))
        hello.snapshot.held.extend(self._states.held())
        return agent_pb2.AgentMessage(hello=hello)

    def obey(self, welcome: agent_pb2.Welcome) -> None:
        """See ControllerLink."""
        if welcome.epoch < self._memory.highest_epoch:
            self._state.counters.add("welcomes_of_lower_epoch")
            raise StaleControllerError(
                f"the controller has epoch {welcome.epoch}, this node already obeys {self._memory.highest_epoch}"
            )
        self._memory.obey(welcome.epoch, welcome.orphan_grace_ms)
        name_process(epoch=welcome.epoch)
        self._effects.outcomes.new_session(self._ended_at)
        self._orphans.controller_here()
        log.info(
            "session.welcomed",
            epoch=welcome.epoch,
            controller_version=welcome.controller_version or "before 0.2",
            beat_interval_ms=welcome.beat_interval_ms,
            lease_ms=welcome.lease_ms,
            orphan_grace_ms=self._memory.orphan_grace_ms,
        )

    def ended(self, reason: str, lasted_s: float, retry_in_s: float) -> None:
        """See ControllerLink."""
        self._orphans.controller_away()
        left_s = self._orphans.left_s(time.monotonic())
        if lasted_s or self._state.counters.first("session", reason):
            log.warning(
                "session.ended",
                reason=reason,
                retry_in_s=round(retry_in_s, 2),
                orphan_grace_left_s=round(left_s, 1) if left_s is not None else None,
            )

    async def detach(self) -> None:
        """See ControllerLink."""
        await self._logs.close()

    def handle(self, instruction: agent_pb2.AgentInstruction) -> None:
        """See ControllerLink."""
        match instruction.WhichOneof("body"):
            case "report_ack":
                self._on_confirmed(instruction.report_ack.sequence)
                self._state.wake.set()
            case "effect":
                self._effects.submit(instruction.effect)
            case "snapshot_request":
                self._state.outbox.request_full()
                self._state.wake.set()
            case "open_log" if self._stub is not None:
                self._logs.open(self._stub, instruction.open_log)
            case _:
                self._state.counters.add("instructions_not_understood")

    def next_message(self) -> agent_pb2.AgentMessage | None:
        """The beat first, then reports, then results, so that an end is told before its fence."""
        beat = self.beat_due(early=self._state.take_final_steps())
        if beat:
            rows = self._state.progress_rows()
            return agent_pb2.AgentMessage(
                beat=agent_pb2.Beat(
                    sequence=beat, loop_lag_s=self._lag.take_s(), progress=rows, sent_ns=time.time_ns(),
                    held=self._states.standing(),
                )
            )  # fmt: skip
        report = self._state.outbox.next_report(time.monotonic())
        if report is not None:
            report.held.extend(self._states.held_by(report.hosts))
            return agent_pb2.AgentMessage(report=report)
        result = self._effects.outcomes.next_result()
        if result is not None:
            return agent_pb2.AgentMessage(effect_result=result)
        return None
