"""Processes of jobs on the generator's nodes: they park, take ranks, meet, restore and make steps, as agents tell it.

The collective is this process's own count: the ranks of a generation meet when all of them have their assignment, and their
steps stop when a node with one of them falls silent. What nodes say is what real agents say, in messages of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from phalanx.v1 import agent_pb2, types_pb2

JOIN_S = 1.0
"""From the last assignment to groups that are built, and from there to the first step. Published: below 30 s at 10,000 ranks
(MegaScale); what Phalanx aims at for 50,000 is 1 s."""
STEP_S = 5.0
"""LongCat-2.0 is published with more than 1T tokens a day, 11.6 million a second: a batch of 58 million tokens is a step of 5 s.
All ranks finish it at the same moment."""
AT_ONCE = 64
"""Nodes that tell the same thing in one go; then others have their turn."""
NO_RANK = -1
PID, HOST_PID = 1_000, 999
"""Of all processes: nobody looks them up."""


@dataclass(slots=True)
class Process:
    """One rank host and its rank. Moments are of the monotonic clock, 0: not yet."""

    host_id: str
    job: str
    state: int = types_pb2.RANK_STATE_PARKED
    since: float = 0.0
    rank: int = NO_RANK
    generation: int = 0
    joining: float = 0.0
    met: float = 0.0
    running: float = 0.0
    told: tuple[int, int] = (0, 0)

    @staticmethod
    def known(job: str, row: list[Any]) -> Process:
        """From `history`: host id, state, since when, rank, generation, and when it was joining, met, restored, stepped; in
        Unix ms, 0: not yet."""
        host_id, state, since, rank, generation, joining, met, _, running = row
        lag = time.time() - time.monotonic()

        def moment(at_ms: int) -> float:
            return at_ms / 1_000 - lag if at_ms else 0.0

        since, joining, met, running = (moment(at_ms) for at_ms in (since, joining, met, running))
        return Process(host_id, job, state, since, rank, generation, joining, met, running)

    def row(self, now: float) -> agent_pb2.HostStatus:
        """What its agent reports of it."""
        row = agent_pb2.HostStatus(
            host_id=self.host_id, job_uid=self.job, state=self.state, rank=self.rank, generation=self.generation,
            pid=PID, host_pid=HOST_PID, age_ms=_age(self.since, now),
        )  # fmt: skip
        if self.generation:
            row.times.joining_age_ms = _age(self.joining, now)
            row.times.rendezvous_age_ms = _age(self.met, now)
            row.times.restored_age_ms = row.times.first_step_age_ms = _age(self.running, now)
        if self.state == types_pb2.RANK_STATE_EXITED:
            sender = types_pb2.ExitInfo.SENDER_AGENT
            row.exit.CopyFrom(types_pb2.ExitInfo(observed=True, signal=9, sender=sender, group_empty=True))
        return row


def _age(moment: float, now: float) -> int:
    return max(1, round((now - moment) * 1_000)) if moment else 0


@dataclass(slots=True)
class Board:
    """The processes of one node and the way to its controller. `tell` sends rows and gives the number of the report."""

    node: str
    tell: Callable[[list[agent_pb2.HostStatus]], int]
    answer: Callable[[agent_pb2.EffectResult], None]
    processes: dict[str, Process] = field(default_factory=dict)
    confirming: dict[int, Fanout] = field(default_factory=dict)
    """Reports that tell of a taken assignment, by number."""

    def durable(self, sequence: int) -> None:
        """A report is in the journal, and all before it."""
        for number in [number for number in self.confirming if number <= sequence]:
            self.confirming.pop(number).confirmed()

    def tell_steps_again(self) -> None:
        """A new session knows none."""
        for process in self.processes.values():
            process.told = (0, 0)

    def rows(self) -> list[agent_pb2.HostStatus]:
        """All of them, for a hello."""
        now = time.monotonic()
        return [process.row(now) for process in self.processes.values()]

    def progress(self, gangs: dict[str, Gang], now: float) -> Iterable[agent_pb2.StepProgress]:
        """The newest step of every rank that runs here, where it was not told yet."""
        for process in self.processes.values():
            if process.state == types_pb2.RANK_STATE_RUNNING:
                step, ended_at = gangs[process.job].step(now)
                if process.told == (process.generation, step):
                    continue
                process.told = (process.generation, step)
                yield agent_pb2.StepProgress(
                    host_id=process.host_id, job_uid=process.job, rank=process.rank, generation=process.generation,
                    step=step, age_ms=_age(ended_at, now), loss=1.0, step_time_s=STEP_S,
                )  # fmt: skip


@dataclass(slots=True)
class Fanout:
    """How a generation reached the nodes; Unix seconds. `durable`: their answer is in the journal."""

    nodes: int = 0
    largest: int = 0
    first_told: float = 0.0
    last_told: float = 0.0
    durable: int = 0
    last_durable: float = 0.0

    def told(self, size: int) -> None:
        """A node has its message of `size` bytes."""
        self.nodes += 1
        self.largest = max(self.largest, size)
        self.last_told = time.time()
        self.first_told = self.first_told or self.last_told

    def confirmed(self) -> None:
        """A node's report of its assignments is durable."""
        self.durable += 1
        self.last_durable = time.time()


@dataclass(slots=True)
class Gang:
    """The ranks of a job in its newest generation."""

    job: str
    generation: int = 0
    world: int = 0
    boards: dict[str, Board] = field(default_factory=dict)
    ranks: int = 0
    first_step: int = 0
    began: float = 0.0
    stopped: float = 0.0
    fanouts: dict[int, Fanout] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        """For the bench."""
        fanouts = {generation: asdict(fanout) for generation, fanout in self.fanouts.items()}
        return {"generation": self.generation, "ranks": self.ranks, "nodes": list(self.boards), "fanouts": fanouts}

    def step(self, now: float) -> tuple[int, float]:
        """The newest step and when it ended."""
        steps = int(((self.stopped or now) - self.began) / STEP_S)
        return self.first_step + 1 + steps, self.began + steps * STEP_S


class Gangs:
    """Every job that has processes on these nodes."""

    def __init__(self) -> None:
        self.jobs: dict[str, Gang] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def adopt(self, job: str, boards: Iterable[Board]) -> None:
        """A gang that runs already."""
        gang = self.jobs[job] = Gang(job, began=time.monotonic())
        for board in boards:
            held = [process for process in board.processes.values() if process.rank != NO_RANK]
            if held:
                gang.boards[board.node] = board
                gang.ranks += len(held)
                gang.generation = max(gang.generation, *(process.generation for process in held))
        gang.world = gang.ranks

    def start(self, board: Board, host_ids: list[str]) -> None:
        """The cell has started processes on a node; they have parked."""
        now = time.monotonic()
        fresh = [Process(name, name.rpartition("-")[0], since=now) for name in host_ids if name not in board.processes]
        board.processes.update((process.host_id, process) for process in fresh)
        if fresh:
            board.tell([process.row(now) for process in fresh])

    def obey(self, board: Board, effect: agent_pb2.AgentEffect, size: int) -> None:
        """An effect for a node's agent, in a message of `size` bytes."""
        match effect.WhichOneof("body"):
            case "apply_generation":
                self._apply(board, effect.apply_generation, size)
            case "fence_hosts":
                self._fence(board, effect.fence_hosts.host_ids)
            case "forget_hosts":
                for name in effect.forget_hosts.host_ids:
                    board.processes.pop(name, None)
        if not effect.quiet:
            board.answer(agent_pb2.EffectResult(effect_id=effect.effect_id, ok=True))

    def lost(self, board: Board, *, gone: bool) -> None:
        """A node does nothing any more: no collective that it takes part in ends. `gone`: its processes are gone, too."""
        now = time.monotonic()
        for gang in self.jobs.values():
            if board.node in gang.boards and not gang.stopped:
                gang.stopped = now
        if gone:
            board.processes.clear()

    def _apply(self, board: Board, order: agent_pb2.ApplyGeneration, size: int) -> None:
        gang = self.jobs.setdefault(order.job_uid, Gang(order.job_uid))
        if order.generation < gang.generation or (order.generation == gang.generation and board.node in gang.boards):
            return
        now = time.monotonic()
        if order.generation > gang.generation:
            gang.stopped = gang.stopped or now
            gang.generation, gang.world, gang.ranks, gang.boards = order.generation, order.world_size, 0, {}
            gang.first_step = order.restore.step
            gang.fanouts[order.generation] = Fanout()
        fanout = gang.fanouts[order.generation]
        fanout.told(size)
        rows = []
        for binding in order.bindings:
            process = board.processes[binding.host_id]
            process.rank, process.generation, process.state = (
                binding.rank,
                order.generation,
                types_pb2.RANK_STATE_JOINING,
            )
            process.since = process.joining = now
            process.met = process.running = 0.0
            rows.append(process.row(now))
        gang.boards[board.node] = board
        gang.ranks += len(rows)
        board.confirming[board.tell(rows)] = fanout
        if gang.ranks == gang.world:
            task = asyncio.create_task(self._meet(gang, gang.generation))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _meet(self, gang: Gang, generation: int) -> None:
        """All ranks have met: they restore, and make their first step."""
        await asyncio.sleep(JOIN_S)
        met = time.monotonic()
        if not await self._reach(gang, generation, types_pb2.RANK_STATE_RESTORING, met):
            return
        await asyncio.sleep(JOIN_S)
        gang.began, gang.stopped = time.monotonic(), 0.0
        await self._reach(gang, generation, types_pb2.RANK_STATE_RUNNING, gang.began)

    async def _reach(self, gang: Gang, generation: int, state: int, at: float) -> bool:
        """Every process of the generation enters a state at `at`; False when the generation was overtaken on the way."""
        for count, board in enumerate(list(gang.boards.values())):
            if count % AT_ONCE == 0:
                await asyncio.sleep(0)
            if gang.generation != generation:
                return False
            mine = [
                process
                for process in board.processes.values()
                if (process.job, process.generation) == (gang.job, generation)
            ]
            for process in mine:
                process.state, process.since = state, at
                if state == types_pb2.RANK_STATE_RESTORING:
                    process.met = at
                else:
                    process.running = at
            now = time.monotonic()
            board.tell([process.row(now) for process in mine])
        return True

    def _fence(self, board: Board, host_ids: Iterable[str]) -> None:
        now = time.monotonic()
        rows = []
        for name in host_ids:
            process = board.processes.setdefault(name, Process(name, name.rpartition("-")[0]))
            gang = self.jobs.get(process.job)
            if gang is not None and process.generation == gang.generation:
                gang.stopped = gang.stopped or now
            process.state, process.since = types_pb2.RANK_STATE_EXITED, now
            rows.append(process.row(now))
        board.tell(rows)
