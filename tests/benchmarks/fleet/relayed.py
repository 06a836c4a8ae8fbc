"""The agents of a whole site behind relays, in one process: a session per relay, and the nodes' sessions inside.

`python -m tests.benchmarks.fleet.relayed FOLDER` obeys the commands of `generator`, and `kill_relay`. Every relay tells all its
nodes' beats every 100 ms, open loop; nodes say hello, report and answer as those with streams of their own do.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from pathlib import Path
from typing import Any

from phalanx.v1 import agent_pb2, relay_pb2

from tests.benchmarks.fleet.generator import AT_ONCE, WELCOME_LIMIT_S, Fleet, Node, Peer, serve

RELAY_SESSION = "/phalanx.v1.RelayService/Session"
NODES_PER_RELAY = 64
INTERVAL_S = 0.1


def relay_name(number: int) -> str:
    return f"relay-{number:02d}"


class Seat:
    """What a node has instead of a stream of its own."""

    backlog = 0

    def __init__(self, relay: RelayPeer, slot: int) -> None:
        self._relay = relay
        self._slot = slot

    def send(self, raw: bytes) -> None:
        """One message, wrapped."""
        self._relay.say(message=relay_pb2.RelayedMessage(slot=self._slot, message=raw))

    def reset(self) -> None:
        """The agent died, and the relay tells it."""
        node = self._relay.nodes[self._slot]
        self._relay.say(end=relay_pb2.RelayedEnd(slot=self._slot, message="the agent's stream was reset"))
        node.ended("reset")


class RelayPeer(Peer):
    """One relay. The slot of a node is its place in `nodes`."""

    path = RELAY_SESSION

    def __init__(self, number: int, nodes: list[Node], folder: Path, *, tls: bool) -> None:
        super().__init__(relay_name(number))
        self.nodes = nodes
        self.batches = 0
        self.ages_ms = [(37 * slot) % 100 for slot in range(len(nodes))]
        self.last_at = 0.0
        self._certificates = [_certificate(folder / f"node-{node.name}.pem") if tls else b"" for node in nodes]

    def hello(self) -> bytes:
        """Nodes say hello themselves."""
        hello = relay_pb2.RelayHello(relay=self.name, boot_id=f"{self.boot:020d}", agent_version="0.2.0")
        return relay_pb2.RelayMessage(hello=hello).SerializeToString()

    def took(self, raw: bytes) -> None:
        """The welcome, and what is for nodes."""
        instruction = relay_pb2.RelayInstruction.FromString(raw)
        match instruction.WhichOneof("body"):
            case "welcome":
                if self.welcomed is not None and not self.welcomed.done():
                    self.welcomed.set_result(None)
            case "instructions":
                for row in instruction.instructions.rows:
                    for slot in row.slots:
                        self.nodes[slot].took(row.instruction)
            case "end":
                node = self.nodes[instruction.end.slot]
                if node.open:
                    node.ended(instruction.end.message)
                    self.say(end=relay_pb2.RelayedEnd(slot=instruction.end.slot))

    def ended(self, reason: str) -> None:
        """The nodes' sessions end with the relay's."""
        super().ended(reason)
        for node in self.nodes:
            if node.open:
                node.ended(reason)

    async def seat(self, slot: int) -> None:
        """A node's session begins."""
        node = self.nodes[slot]
        node.ended_at, node.why = 0.0, ""
        node.welcomed = asyncio.get_running_loop().create_future()
        node.stream = Seat(self, slot)  # type: ignore[assignment] # what a node needs of a stream
        hello = agent_pb2.AgentMessage.FromString(node.hello()).hello
        self.say(opening=relay_pb2.RelayedOpening(slot=slot, hello=hello, certificate_pem=self._certificates[slot]))
        await asyncio.wait_for(node.welcomed, WELCOME_LIMIT_S)

    def say(self, **body: Any) -> None:
        """One message."""
        if self.stream is not None and self.open:
            self.stream.send(relay_pb2.RelayMessage(**body).SerializeToString())

    def beat(self) -> int:
        """The columns of all nodes that beat; how many those are."""
        slots = [slot for slot, node in enumerate(self.nodes) if node.open and not node.silent]
        self.batches += 1
        now_ns = time.time_ns()
        self.last_at = now_ns / 1e9
        ages_ms = [self.ages_ms[slot] for slot in slots]
        beats = relay_pb2.RelayedBeats(
            sequence=self.batches, sent_ns=now_ns, slots=slots, ages_ms=ages_ms, steps=self._steps(slots)
        )
        self.say(beats=beats)
        return len(slots)

    def _steps(self, slots: list[int]) -> list[relay_pb2.RelayedSteps]:
        """Steps that its nodes have not told yet."""
        now, found = time.monotonic(), {}
        for slot in slots:
            node = self.nodes[slot]
            for row in node.board.progress(node.gangs.jobs, now) if node.board.processes else ():
                key = row.job_uid, row.generation
                if key not in found:
                    found[key] = relay_pb2.RelayedSteps(job_uid=row.job_uid, generation=row.generation)
                columns = found[key]
                columns.ranks.append(row.rank)
                columns.slots.append(slot)
                columns.steps.append(row.step)
                columns.ages_ms.append(row.age_ms)
                columns.losses.append(row.loss)
                columns.step_times_s.append(row.step_time_s)
        return [*found.values()]


class RelayedFleet(Fleet):
    """All relays and their pace."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.relays = [
            RelayPeer(at // NODES_PER_RELAY, self.nodes[at : at + NODES_PER_RELAY], folder, tls=self.tls)
            for at in range(0, len(self.nodes), NODES_PER_RELAY)
        ]

    async def open_all(self) -> dict[str, Any]:
        """Sessions of relays, then of nodes, for all that have none. Who is silent does not dial."""
        began = time.monotonic()
        await self.connect([relay for relay in self.relays if not relay.open], "relay")
        room = asyncio.Semaphore(AT_ONCE)

        async def one(relay: RelayPeer, slot: int) -> None:
            async with room:
                await relay.seat(slot)

        waiting = [
            (relay, slot) for relay in self.relays for slot, node in enumerate(relay.nodes) if not (node.open or node.silent)
        ]  # fmt: skip
        await asyncio.gather(*(one(relay, slot) for relay, slot in waiting))
        return {"took_s": time.monotonic() - began, "count": len(waiting)}

    def start_beats(self, interval_s: float) -> None:
        """Every relay at its own phase; the interval is the relays' own."""
        del interval_s
        if self._pace is not None:
            self._pace.cancel()
        self._pace = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        count = len(self.relays)
        begin, turn = time.monotonic() + 0.1, 0
        while True:
            at = begin + INTERVAL_S * turn / count
            wait_s = at - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            self._late.append(time.monotonic() - at)
            relay = self.relays[turn % count]
            if relay.open:
                self.sent += relay.beat()
            turn += 1
            if wait_s <= 0 and not turn % 16:
                await asyncio.sleep(0)

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """One command of the bench."""
        match command["do"]:
            case "connect":
                found = await self.open_all()
                gc.collect()
                gc.freeze()
                return found
            case "reconnect":
                return await self.open_all()
            case "kill_relay":
                self.relays[command["relay"]].reset()
                return {"at": time.time(), "nodes": [node.name for node in self.relays[command["relay"]].nodes]}
            case "silence":
                for relay in self.relays:
                    for slot, node in enumerate(relay.nodes):
                        node.last_beat_at = relay.last_at - relay.ages_ms[slot] / 1_000
        return await super().obey(command)


def _certificate(path: Path) -> bytes:
    """The certificate of a file that holds the key as well."""
    whole = path.read_bytes()
    end = b"-----END CERTIFICATE-----\n"
    return whole[: whole.index(end) + len(end)]


if __name__ == "__main__":
    asyncio.run(serve(RelayedFleet(Path(sys.argv[1]))))
