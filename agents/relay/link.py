"""The relay's session with the controller: what its nodes say upward, what they are told downward."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import structlog
from grpc import aio
from phalanx.v1 import agent_pb2, relay_pb2, relay_pb2_grpc

from agents.node.boot import Boot
from agents.node.dial import Dialer
from agents.node.link import ControllerLink, StaleControllerError
from agents.node.observability import Counters, name_process
from agents.relay.config import RELAY_VERSION
from agents.relay.offences import Offences
from agents.relay.slots import Ending, Slots

GONE = Ending(
    grpc.StatusCode.UNAVAILABLE, "the relay has lost its controller: connect again, here or there", "RELAY_CUT_OFF"
)
STATUS = {int(status.value[0]): status for status in grpc.StatusCode}

log = structlog.get_logger(__name__)


class RelayLink(ControllerLink):
    """Holds the table of nodes while there is a session; `table` is None while there is none."""

    def __init__(self, dialer: Dialer, name: str, boot: Boot, counters: Counters) -> None:
        self._awake = asyncio.Event()
        super().__init__(dialer, self._awake, boot)
        self._name = name
        self._counters = counters
        self._highest_epoch = 0
        self.offences = Offences()
        self.table: Slots | None = None
        self.channel: aio.Channel | None = None

    def open(self, channel: aio.Channel) -> Any:
        """See ControllerLink."""
        self.channel = channel
        return relay_pb2_grpc.RelayServiceStub(channel).Session()

    def hello(self) -> relay_pb2.RelayMessage:
        """See ControllerLink. Nodes say hello themselves."""
        hello = relay_pb2.RelayHello(
            relay=self._name, boot_id=self.boot.id, highest_epoch=self._highest_epoch, agent_version=RELAY_VERSION
        )
        return relay_pb2.RelayMessage(hello=hello)

    def next_message(self) -> relay_pb2.RelayMessage | None:
        """Beats first: a long queue of other messages must not age the nodes."""
        table = self.table
        if table is None:
            return None
        if self.beat_due():
            beats = table.fold.take()
            if beats is not None:
                return relay_pb2.RelayMessage(beats=beats)
        offences = self.offences.take()
        if offences is not None:
            return relay_pb2.RelayMessage(offences=offences)
        return table.next_message()

    def obey(self, welcome: agent_pb2.Welcome) -> None:
        """See ControllerLink."""
        if welcome.epoch < self._highest_epoch:
            self._counters.add("welcomes_of_lower_epoch")
            text = f"the controller has epoch {welcome.epoch}, this relay has already served {self._highest_epoch}"
            raise StaleControllerError(text)
        self._highest_epoch = welcome.epoch
        name_process(epoch=welcome.epoch)
        if self.table is None:
            self.table = Slots(self._awake.set)
        log.info("session.welcomed", epoch=welcome.epoch, beat_interval_ms=welcome.beat_interval_ms)

    def handle(self, instruction: relay_pb2.RelayInstruction) -> None:
        """See ControllerLink."""
        table = self.table
        if table is None:
            return
        match instruction.WhichOneof("body"):
            case "instructions":
                table.deliver(instruction.instructions)
            case "end":
                end = instruction.end
                status = STATUS.get(end.status, grpc.StatusCode.UNKNOWN)
                table.ended_above(end.slot, Ending(status, end.message, end.reason, end.known_boot))
            case _:
                self._counters.add("instructions_not_understood")

    async def detach(self) -> None:
        """See ControllerLink. The nodes' streams end with it: they say hello again, with their whole truth."""
        if self.table is not None:
            self.table.close(GONE)
            self.table = None

    def ended(self, reason: str, lasted_s: float, retry_in_s: float) -> None:
        """See ControllerLink."""
        if lasted_s or self._counters.first("session", reason):
            log.warning("session.ended", reason=reason, retry_in_s=round(retry_in_s, 2))
