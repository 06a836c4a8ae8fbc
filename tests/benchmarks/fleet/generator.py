"""The agents of a whole site in one process: real sessions over real connections, simulated devices, open loop.

`python -m tests.benchmarks.fleet.generator FOLDER` reads one JSON command a line and answers each with one JSON line.
FOLDER holds `site.json` (address, nodes, tls; server_name unless a controller is dialled) and, with TLS, a certificate per
node. Open loop: a beat is due at its own time whatever became of the one before; how late this process itself was is reported
beside every figure.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import json
import os
import random
import ssl
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from phalanx.v1 import agent_pb2, cell_pb2

from tests.benchmarks.fleet.gang import Board, Gangs, Process
from tests.benchmarks.fleet.http2 import GrpcStream
from tests.benchmarks.many_nodes import hello

SERVER_NAME = "controller.phalanx"
SESSION = "/phalanx.v1.AgentService/Session"
CELL_SESSION = "/phalanx.v1.CellService/Session"
NODES_PER_CELL = 250
RACK_NODES = 64
PROCESSES = "processes.json"
"""What runs on the nodes from the beginning, where the folder has it; `history` writes it."""
AT_ONCE = 128
"""Handshakes under way: a site that comes back does so with jitter."""
TRIES = 5
RETRY_S = 0.5
MAX_REASON = 120
CONNECT_LIMIT_S = 30.0
WELCOME_LIMIT_S = 60.0


class Peer:
    """A client of one long stream."""

    path = SESSION
    server_name = SERVER_NAME

    def __init__(self, name: str) -> None:
        self.name = name
        self.boot = 1
        self.stream: GrpcStream | None = None
        self.welcomed: asyncio.Future[None] | None = None
        self.context: ssl.SSLContext | None = None
        self.ended_at = 0.0
        self.why = ""

    @property
    def open(self) -> bool:
        """Whether the session holds."""
        return self.stream is not None and not self.ended_at and self.welcomed is not None and self.welcomed.done()

    def hello(self) -> bytes:
        """The first message."""
        raise NotImplementedError

    def took(self, raw: bytes) -> None:
        """An instruction."""
        raise NotImplementedError

    def ended(self, reason: str) -> None:
        """The stream is over."""
        self.ended_at, self.why = time.time(), reason
        if self.welcomed is not None and not self.welcomed.done():
            self.welcomed.set_exception(ConnectionError(f"{self.name}: {reason}"))

    async def connect(self, host: str, port: int) -> None:
        """Open the session and wait for its welcome."""
        loop = asyncio.get_running_loop()
        self.stream, self.ended_at = None, 0.0
        self.welcomed = loop.create_future()
        stream = GrpcStream(self.path, self.server_name, self.took, self.ended, tls=self.context is not None)
        name = self.server_name if self.context else None
        try:
            await asyncio.wait_for(
                loop.create_connection(lambda: stream, host, port, ssl=self.context, server_hostname=name),
                CONNECT_LIMIT_S,
            )
            self.stream = stream
            stream.send(self.hello())
            await asyncio.wait_for(self.welcomed, WELCOME_LIMIT_S)
        except (OSError, TimeoutError):
            stream.reset()  # the next try must not find a half-open one of ours beside it
            raise

    def reset(self) -> None:
        """Die. Who comes back is a new process."""
        self.boot += 1
        if self.stream is not None:
            self.stream.reset()


class Node(Peer):
    """One agent: says hello, beats, carries out effects."""

    def __init__(self, number: int, gangs: Gangs) -> None:
        super().__init__(f"node-{number:04d}")
        self.number = number
        self.gangs = gangs
        self.board = Board(self.name, self._report, self._answer)
        self.reports = 1
        self.beats = 0
        self.silent = False
        self.delay_s = 0.0
        self.last_beat_at = 0.0
        self.effects: list[tuple[float, str]] = []

    def hello(self) -> bytes:
        """The truth of a node with eight healthy devices and what runs there."""
        message = hello(self.number)
        message.hello.boot_id = f"{self.boot:020d}"
        message.hello.labels["rack"] = f"r{self.number // RACK_NODES:03d}"
        message.hello.own_rows = True
        self.board.tell_steps_again()
        message.hello.snapshot.sequence = self.reports
        message.hello.snapshot.hosts.extend(self.board.rows())
        return message.SerializeToString()

    def took(self, raw: bytes) -> None:
        """Welcome, acknowledgements, effects: each effect is answered at once. Who is silent does nothing."""
        instruction = agent_pb2.AgentInstruction.FromString(raw)
        match instruction.WhichOneof("body"):
            case "welcome":
                if self.welcomed is not None and not self.welcomed.done():
                    self.welcomed.set_result(None)
            case "report_ack":
                self.board.durable(instruction.report_ack.sequence)
            case "effect" if not self.silent:
                self.effects.append((time.time(), instruction.effect.effect_id))
                self.gangs.obey(self.board, instruction.effect, len(raw))

    def beat(self) -> None:
        """One beat, with the moment at which it leaves; one that is delayed is on its way for longer."""
        self.beats += 1
        now_ns = time.time_ns()
        beat = agent_pb2.Beat(sequence=self.beats, loop_lag_s=0.001, sent_ns=now_ns)
        if self.board.processes:
            beat.progress.extend(self.board.progress(self.gangs.jobs, time.monotonic()))
        raw = agent_pb2.AgentMessage(beat=beat).SerializeToString()
        if self.delay_s:
            asyncio.get_running_loop().call_later(self.delay_s, self._arrive, raw, now_ns + round(self.delay_s * 1e9))
        else:
            self._arrive(raw, now_ns)

    def _arrive(self, raw: bytes, at_ns: int) -> None:
        assert self.stream is not None
        self.last_beat_at = at_ns / 1e9
        self.stream.send(raw)

    def fall_silent(self, *, gone: bool) -> None:
        """Stop with everything, the connection stays. `gone`: with all processes; who speaks then is a new agent."""
        self.silent = True
        self.gangs.lost(self.board, gone=gone)
        if gone:
            self.boot += 1

    def _report(self, rows: list[agent_pb2.HostStatus]) -> int:
        self.reports += 1
        if self.stream is not None and self.open and not self.silent:
            report = agent_pb2.Report(sequence=self.reports, hosts=rows)
            self.stream.send(agent_pb2.AgentMessage(report=report).SerializeToString())
        return self.reports

    def _answer(self, result: agent_pb2.EffectResult) -> None:
        if self.stream is not None:
            self.stream.send(agent_pb2.AgentMessage(effect_result=result).SerializeToString())


class Cell(Peer):
    """One cell agent: the raylets of 250 nodes."""

    path = CELL_SESSION

    def __init__(self, number: int, nodes: list[str], start_hosts: Callable[[cell_pb2.StartHosts], None]) -> None:
        super().__init__(f"cell-{number:02d}")
        self.nodes = nodes
        self.start_hosts = start_hosts

    def hello(self) -> bytes:
        """All raylets are alive."""
        report = cell_pb2.CellReport(full=True, nodes=[cell_pb2.CellNode(node=name, alive=True) for name in self.nodes])
        message = cell_pb2.CellHello(
            cell=self.name, boot_id=f"{self.boot:020d}", incarnation="1", store_address="127.0.0.1:1", snapshot=report
        )
        return cell_pb2.CellMessage(hello=message).SerializeToString()

    def took(self, raw: bytes) -> None:
        """The welcome, questions about a workload, and processes to start: they park at once."""
        instruction = cell_pb2.CellInstruction.FromString(raw)
        match instruction.WhichOneof("body"):
            case "welcome":
                assert self.welcomed is not None
                if not self.welcomed.done():
                    self.welcomed.set_result(None)
            case "preflight":
                result = cell_pb2.PreflightResult(preflight_id=instruction.preflight.preflight_id)
                self._send(cell_pb2.CellMessage(preflight_result=result))
            case "effect":
                self.start_hosts(instruction.effect.start_hosts)
                result = agent_pb2.EffectResult(effect_id=instruction.effect.effect_id, ok=True)
                self._send(cell_pb2.CellMessage(effect_result=result))

    def _send(self, message: cell_pb2.CellMessage) -> None:
        if self.stream is not None:
            self.stream.send(message.SerializeToString())

    def report(self, names: list[str], *, alive: bool) -> None:
        """Their raylets are gone, or there again."""
        rows = [cell_pb2.CellNode(node=name, alive=alive) for name in names]
        report = cell_pb2.CellReport(nodes=rows, store_address="127.0.0.1:1")
        self._send(cell_pb2.CellMessage(report=report))


class Fleet:
    """All peers and the pace."""

    def __init__(self, folder: Path) -> None:
        site = json.loads((folder / "site.json").read_text())
        self.host, port = site["address"].rsplit(":", 1)
        self.port = int(port)
        self.folder = folder
        self.tls = site["tls"]
        self.gangs = Gangs()
        self.nodes = [Node(number, self.gangs) for number in range(site["nodes"])]
        for node in self.nodes:
            node.server_name = site.get("server_name", SERVER_NAME)
        self.by_name = {node.name: node for node in self.nodes}
        names = [node.name for node in self.nodes]
        self.cells = [
            Cell(at // NODES_PER_CELL, names[at : at + NODES_PER_CELL], self.start_hosts)
            for at in range(0, len(names), NODES_PER_CELL)
        ]
        if (folder / PROCESSES).exists():
            self._adopt(json.loads((folder / PROCESSES).read_text()))
        self._due: list[tuple[float, int]] = []
        self._late: list[float] = []
        self._pace: asyncio.Task[None] | None = None
        self.interval_s = 1.0
        self.sent = 0
        self.skipped = 0

    def context(self, kind: str, name: str) -> ssl.SSLContext:
        """TLS with the peer's own certificate."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(self.folder / f"{kind}-{name}.pem")
        return context

    async def connect(
        self, peers: list[Any], kind: str, at_once: int = AT_ONCE, tries_each: int = TRIES
    ) -> dict[str, Any]:
        """Open the sessions; how long it took until all were welcome, and why tries before that were in vain."""
        room = asyncio.Semaphore(at_once)
        began = time.monotonic()
        vain: Counter[str] = Counter()

        async def one(peer: Peer) -> None:
            async with room:
                # 5 ms each, kept for the next time: a storm is not measured by them.
                if self.tls and peer.context is None:
                    peer.context = self.context(kind, peer.name)
            for left in reversed(range(tries_each)):
                async with room:
                    try:
                        await peer.connect(self.host, self.port)
                    except (OSError, TimeoutError) as error:
                        vain[f"{type(error).__name__}: {str(error).removeprefix(peer.name)[:MAX_REASON]}"] += 1
                        if not left:
                            raise
                    else:
                        return
                await asyncio.sleep(RETRY_S * random.uniform(0.5, 1.5))  # outside: who waits holds nobody up

        try:
            await asyncio.gather(*(one(peer) for peer in peers))
        except (OSError, TimeoutError) as error:
            raise ConnectionError(f"{tries_each} tries are spent: {error}; all in vain so far: {dict(vain)}") from error
        return {"took_s": time.monotonic() - began, "tries": len(peers) + vain.total(), "vain": dict(vain)}

    def _adopt(self, known: dict[str, Any]) -> None:
        """Take over a gang that has been running for long."""
        for name, boot in known["boots"].items():
            self.by_name[name].boot = boot
        for name, rows in known["processes"].items():
            board = self.by_name[name].board
            board.processes.update((row[0], Process.known(known["job"], row)) for row in rows)
        self.gangs.adopt(known["job"], [node.board for node in self.nodes])

    def start_hosts(self, order: cell_pb2.StartHosts) -> None:
        """Processes begin on their nodes; on silent ones nothing does."""
        wanted: defaultdict[str, list[str]] = defaultdict(list)
        for host in order.hosts:
            wanted[host.node].append(host.host_id)
        for name, host_ids in wanted.items():
            node = self.by_name[name]
            if not node.silent:
                self.gangs.start(node.board, host_ids)

    def start_beats(self, interval_s: float) -> None:
        """Every node beats at its own phase from now on."""
        if self._pace is not None:
            self._pace.cancel()
        self.interval_s = interval_s
        begin = time.monotonic() + 0.1
        count = len(self.nodes)
        self._due = [(begin + interval_s * number / count, number) for number in range(count)]
        heapq.heapify(self._due)
        self._pace = asyncio.create_task(self._beat_on())

    async def _beat_on(self) -> None:
        due = self._due
        while True:
            now = time.monotonic()
            while due and due[0][0] <= now:
                at, number = due[0]
                node = self.nodes[number]
                heapq.heapreplace(due, (at + self.interval_s, number))
                self._late.append(now - at)
                if node.silent or not node.open:
                    self.skipped += 1
                    continue
                self.sent += 1
                node.beat()
                now = time.monotonic()
            await asyncio.sleep(max(0.0, min(due[0][0] - time.monotonic(), 0.05)) if due else 0.05)

    def marks(self) -> dict[str, Any]:
        """Own processor time and lateness since the last call."""
        used = os.times()
        late = np.array(self._late or [0.0]) * 1_000
        self._late.clear()
        return {
            "at": time.time(), "cpu_s": used.user + used.system, "sent": self.sent, "skipped": self.skipped,
            "open": sum(node.open for node in self.nodes), "late_p50_ms": float(np.percentile(late, 50)),
            "late_p99_ms": float(np.percentile(late, 99)), "late_max_ms": float(late.max()),
            "backlog": sum(node.stream.backlog for node in self.nodes if node.stream is not None),
        }  # fmt: skip

    def chosen(self, names: list[str]) -> Iterator[Node]:
        """Nodes by name."""
        return (self.by_name[name] for name in names)

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """One command of the bench."""
        at = time.time()
        match command["do"]:
            case "connect":
                at_once, tries = command.get("at_once", AT_ONCE), command.get("tries", TRIES)
                found = await self.connect(self.nodes, "node", at_once, tries)
                gc.collect()
                gc.freeze()  # thousands of lasting objects: the collector must not walk them while beats are due
                return found
            case "cells":
                return await self.connect(self.cells, "cell", tries_each=command.get("tries", TRIES))
            case "beats":
                self.start_beats(command["interval_s"])
            case "hold":
                if self._pace is not None:
                    self._pace.cancel()
            case "marks":
                return self.marks()
            case "reset":
                for node in self.chosen(command["nodes"]):
                    node.reset()
            case "reconnect":
                peers = [node for node in self.nodes if not node.open]
                at_once, tries = command.get("at_once", AT_ONCE), command.get("tries", TRIES)
                return {"count": len(peers), **await self.connect(peers, "node", at_once, tries)}
            case "reconnect_cells":
                return await self.connect(
                    [cell for cell in self.cells if not cell.open], "cell", AT_ONCE, command.get("tries", TRIES)
                )
            case "silence":
                for node in self.chosen(command["nodes"]):
                    node.fall_silent(gone=command.get("gone", False))
                return {"at": at, "last": {name: self.by_name[name].last_beat_at for name in command["nodes"]}}
            case "speak":
                for node in self.nodes:
                    node.silent = False
                    node.delay_s = 0.0
            case "delay":
                for node in self.chosen(command["nodes"]):
                    node.delay_s = command["delay_s"]
            case "raylets_dead" | "raylets_alive":
                chosen = set(command["nodes"])
                for cell in self.cells:
                    mine = [name for name in cell.nodes if name in chosen]
                    if mine:
                        cell.report(mine, alive=command["do"] == "raylets_alive")
            case "ended":
                return {"ended": {node.name: node.why for node in self.nodes if not node.open}}
            case "gangs":
                return {"gangs": {uid: gang.shown() for uid, gang in self.gangs.jobs.items()}}
            case "effects":
                return {"effects": {node.name: node.effects for node in self.nodes if node.effects}}
            case other:
                raise ValueError(f"{other!r} is no command")
        return {"at": at}


async def serve(fleet: Fleet) -> None:
    """Commands from stdin until it ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=16 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        answer = await fleet.obey(json.loads(line))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(Fleet(Path(sys.argv[1]))))
