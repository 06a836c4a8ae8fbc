"""The nodes of one upward session: who has which slot, and what waits in either direction. Nothing here does I/O.

A slot is free again when both sides have said that its node's stream has ended, so that nothing on its way to the former node
reaches the next one. When the upward session ends, the table ends with it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from phalanx.v1 import agent_pb2, relay_pb2

from agents.relay.fold import Fold

SLOTS = 256
"""Nodes behind one relay; the controller has as many. A rack is 64."""
UNREAD_MESSAGES = 1_024
"""Instructions that wait for one slow agent; beyond it its stream is cut, and nobody else's."""
UNSENT_BYTES = 32 << 20
"""Messages of agents on their way up; beyond it agents are not read from."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The status that an agent's stream ends with."""

    status: grpc.StatusCode
    message: str
    reason: str
    known_boot: str = ""


class NodeStream:
    """One agent's stream. `wake` is set when there is something to write, `closing` when it is to end."""

    def __init__(self, table: Slots, slot: int, node: str) -> None:
        self.table = table
        self.slot = slot
        self.node = node
        self.over = False
        self.wake = asyncio.Event()
        self.closing: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.unread: deque[bytes] = deque()

    def give(self, instruction: bytes) -> None:
        """An instruction from above."""
        if len(self.unread) >= UNREAD_MESSAGES:
            text = f"{self.node} has left {len(self.unread)} instructions unread: connect again"
            self.end(Ending(grpc.StatusCode.RESOURCE_EXHAUSTED, text, "SLOW_READER"))
            return
        self.unread.append(instruction)
        self.wake.set()

    def end(self, ending: Ending) -> None:
        """The stream is to end."""
        if not self.closing.done():
            self.closing.set_result(ending)


class Slots:
    """The table of one upward session. `wake` says that there is something to send."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._free = list(range(SLOTS))
        self._streams: dict[int, NodeStream] = {}
        self._leaving: set[int] = set()  # their agents have gone, the controller has not confirmed it
        self._unsent: deque[tuple[relay_pb2.RelayMessage, int]] = deque()
        self._unsent_bytes = 0
        self._room = asyncio.Event()
        self._closed = False
        self.fold = Fold()

    def __len__(self) -> int:
        return len(self._streams)

    # Downward

    def open(self, hello: agent_pb2.AgentHello, certificate_pem: bytes) -> NodeStream | None:
        """A node's stream begins; None when there is no slot left."""
        if not self._free or self._closed:
            return None
        slot = heapq.heappop(self._free)
        stream = self._streams[slot] = NodeStream(self, slot, hello.node)
        opening = relay_pb2.RelayedOpening(slot=slot, hello=hello, certificate_pem=certificate_pem)
        self._send(relay_pb2.RelayMessage(opening=opening), opening.ByteSize())
        return stream

    def leave(self, stream: NodeStream, reason: str) -> None:
        """A node's stream has ended, whoever ended it."""
        stream.over = True
        self.fold.forget(stream.slot)
        if self._streams.get(stream.slot) is stream:
            del self._streams[stream.slot]
            self._leaving.add(stream.slot)
        else:
            heapq.heappush(self._free, stream.slot)
        self._send(relay_pb2.RelayMessage(end=relay_pb2.RelayedEnd(slot=stream.slot, message=reason[:1_000])))

    def deliver(self, rows: relay_pb2.RelayedInstructions) -> None:
        """Instructions for the nodes that they name."""
        for row in rows.rows:
            for slot in row.slots:
                stream = self._streams.get(slot)
                if stream is not None:
                    stream.give(row.instruction)

    def ended_above(self, slot: int, ending: Ending) -> None:
        """The controller ends a node's session, or confirms that it has ended."""
        if slot in self._leaving:
            self._leaving.remove(slot)
            heapq.heappush(self._free, slot)
            return
        stream = self._streams.pop(slot, None)
        if stream is not None:
            stream.end(ending)

    def close(self, ending: Ending) -> None:
        """The upward session is over, and so are all of these streams."""
        self._closed = True
        self._unsent.clear()
        self._room.set()
        for stream in self._streams.values():
            stream.end(ending)

    # Upward

    async def room(self, size: int) -> None:
        """Wait while too much is on its way for so many bytes more."""
        while self._unsent_bytes + size > UNSENT_BYTES and self._unsent and not self._closed:
            self._room.clear()
            await self._room.wait()

    async def pass_on(self, stream: NodeStream, message: bytes) -> None:
        """What a node says, as it is, when there is room."""
        await self.room(len(message))
        if not stream.over:
            relayed = relay_pb2.RelayedMessage(slot=stream.slot, message=message)
            self._send(relay_pb2.RelayMessage(message=relayed), len(message))

    def heard(self, stream: NodeStream, beat: agent_pb2.Beat) -> None:
        """A node's beat."""
        if not stream.over:
            self.fold.heard(stream.slot, beat)

    def next_message(self) -> relay_pb2.RelayMessage | None:
        """What to send upward now."""
        if not self._unsent:
            return None
        message, size = self._unsent.popleft()
        self._unsent_bytes -= size
        self._room.set()
        return message

    def _send(self, message: relay_pb2.RelayMessage, size: int = 0) -> None:
        if not self._closed:
            self._unsent.append((message, size))
            self._unsent_bytes += size
            self._wake()
