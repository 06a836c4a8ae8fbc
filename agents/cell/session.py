"""The cell agent's session with the controller: what it says and what it is told."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import structlog
from grpc import aio
from phalanx.v1 import agent_pb2, cell_pb2, cell_pb2_grpc

from agents.cell.table import CellTable
from agents.node.boot import Boot
from agents.node.dial import Dialer
from agents.node.link import ControllerLink, StaleControllerError
from agents.node.loop_lag import LoopLag
from agents.node.outcomes import OutcomeMemory

PREFLIGHT_LIMIT = 64

SessionCall = aio.StreamStreamCall[cell_pb2.CellMessage, cell_pb2.CellInstruction]

log = structlog.get_logger(__name__)


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


class ControllerSession(ControllerLink):
    """Beats, reports and results up; effects and questions about workloads down."""

    def __init__(
        self,
        dialer: Dialer,
        *,
        boot: Boot,
        hello: Callable[[], cell_pb2.CellHello],
        table: CellTable,
        orders: Orders,
        lag: LoopLag,
    ) -> None:
        super().__init__(dialer, asyncio.Event(), boot)
        self._hello = hello
        self._table = table
        self._orders = orders
        self._lag = lag
        self._reason_logged = ""
        # A result has no acknowledgement and its asker waits on this session: it is not kept for another one.
        self._preflights: deque[cell_pb2.PreflightResult] = deque(maxlen=PREFLIGHT_LIMIT)

    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()

    def answer_preflight(self, result: cell_pb2.PreflightResult) -> None:
        """Send the result."""
        self._preflights.append(result)
        self._wake.set()

    def open(self, channel: aio.Channel) -> SessionCall:
        """See ControllerLink."""
        return cell_pb2_grpc.CellServiceStub(channel).Session()

    def hello(self) -> cell_pb2.CellMessage:
        """Who we are, and all that is known of nodes and actors."""
        hello = self._hello()
        hello.snapshot.CopyFrom(self._table.hello_snapshot(time.monotonic()))
        return cell_pb2.CellMessage(hello=hello)

    def obey(self, welcome: agent_pb2.Welcome) -> None:
        """See ControllerLink."""
        highest = self._orders.highest_epoch
        if welcome.epoch < highest:
            raise StaleControllerError(f"the controller has epoch {welcome.epoch}, this cell already obeys {highest}")
        self._orders.obey_epoch(welcome.epoch)
        self._reason_logged = ""
        self._orders.outcomes.new_session(self._ended_at)
        log.info(
            "session.welcomed",
            epoch=welcome.epoch,
            controller_version=welcome.controller_version or "before 0.2",
            beat_interval_ms=welcome.beat_interval_ms,
        )

    def ended(self, reason: str, lasted_s: float, retry_in_s: float) -> None:
        """See ControllerLink."""
        if lasted_s or reason != self._reason_logged:
            log.warning("session.ended", reason=reason, retry_in_s=round(retry_in_s, 2))
            self._reason_logged = reason

    async def detach(self) -> None:
        """See ControllerLink."""
        self._preflights.clear()

    def handle(self, instruction: cell_pb2.CellInstruction) -> None:
        """See ControllerLink."""
        match instruction.WhichOneof("body"):
            case "report_ack":
                self._table.acknowledge(instruction.report_ack.sequence, time.monotonic())
            case "effect":
                self._orders.submit(instruction.effect)
            case "snapshot_request":
                self._table.request_full()
            case "preflight":
                self._orders.preflight(instruction.preflight)
            case _:
                log.warning("session.instruction_not_understood")
        self._wake.set()

    def next_message(self) -> cell_pb2.CellMessage | None:
        """The beat first, then reports, then results, so that a row is told before its effect."""
        beat = self.beat_due()
        if beat:
            return cell_pb2.CellMessage(beat=cell_pb2.CellBeat(sequence=beat, loop_lag_s=self._lag.take_s()))
        report = self._table.next_report(time.monotonic())
        if report is not None:
            return cell_pb2.CellMessage(report=report)
        result = self._orders.outcomes.next_result()
        if result is not None:
            return cell_pb2.CellMessage(effect_result=result)
        if self._preflights:
            return cell_pb2.CellMessage(preflight_result=self._preflights.popleft())
        return None
