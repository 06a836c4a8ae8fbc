"""The node's memory tier on the agent's event loop: what ranks and the controller say, and what is said of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path

import structlog
from phalanx.v1 import agent_pb2, local_pb2, types_pb2

from agents.memory.state_file import Line, Word
from agents.node.dial import is_loopback
from agents.node.hosts import HostTable
from agents.node.memory.courier import Courier, Parcel
from agents.node.memory.disk import LocalDisk
from agents.node.memory.door import Access, MemoryDoor, Permits, Wanted, fetch
from agents.node.memory.store import MemoryStore, Row
from agents.node.memory.wire import PeerError, Trust
from agents.node.observability import Counters

GRACE_S = 300.0
"""States of a job that has no process here any more are kept so long."""
MAX_ROWS = 4_096
"""Of one job in one message."""
STOPPED = frozenset(
    (types_pb2.RANK_STATE_PAUSED, types_pb2.RANK_STATE_EXITED, types_pb2.RANK_STATE_LOST, types_pb2.RANK_STATE_JOINING)
)
"""States of a rank in which what is held of its job is told at once."""

log = structlog.get_logger(__name__)


class MemoryDesk:
    """Make it with a folder below /dev/shm; None: this node keeps nothing in memory, and says so."""

    def __init__(
        self,
        folder: Path | None,
        *,
        disk: LocalDisk,
        node: str,
        address: str,
        identity: Path | None,
        port_path: Path,
        table: HostTable,
        counters: Counters,
    ) -> None:
        self._store = MemoryStore(folder)
        self._disk = disk
        if disk.folder is None:
            log.warning("disk.off", reason=disk.refused)
        self._every: dict[str, int] = {}
        self._table = table
        self._access = Access()
        self._trust = Trust(node, identity)
        self._holders: dict[str, tuple[str, str]] = {}
        self._fetching: set[tuple[str, int, int]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._told: dict[str, tuple[Row, ...]] = {}
        self._seen: dict[str, tuple[Row, ...]] = {}
        self._left: dict[str, float] = {}
        self._door: MemoryDoor | None = None
        self._courier: Courier | None = None
        if self._store.folder is None:
            log.warning("memory.off", reason=self._store.refused)
            return
        if identity is None and not is_loopback(f"{address}:0"):
            log.warning("memory.alone", reason=f"without an identity {address} is not listened on, only loopback is")
        else:
            self._listen(address, port_path, counters)
        self._courier = Courier(self._trust, counters)

    def _listen(self, address: str, port_path: Path, counters: Counters) -> None:
        try:
            self._door = MemoryDoor(
                address,
                self._trust,
                self._store,
                disk=self._disk,
                access=self._access,
                counters=counters,
                port_path=port_path,
            )
        except OSError as error:
            log.warning("memory.alone", reason=f"cannot listen on {address}: {error.strerror}")

    def resume(self, tables: Iterable[agent_pb2.ApplyGeneration]) -> None:
        """A new life of the agent: what it knew of its jobs is known again, and what other jobs have left is removed."""
        newest = list(tables)
        self._store.keep_only({*(order.job_uid for order in newest), *(r.identity.job_uid for r in self._table)})
        for order in newest:
            self.begin(order, fresh=False)
        for uid in self._disk.job_uids():
            self._access.jobs.setdefault(uid, Permits(self._disk.generation(uid)))

    @property
    def address(self) -> str:
        """Where other agents bring and fetch states; "" where they cannot."""
        return self._door.address if self._door is not None else ""

    async def close(self) -> None:
        """Stop; what is in memory stays, for the agent's next life."""
        if self._door is not None:
            self._door.close()
        if self._courier is not None:
            self._courier.close()
        self._disk.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # What the controller says

    def begin(self, order: agent_pb2.ApplyGeneration, *, fresh: bool) -> None:
        """A generation is about to start here: what happened after its step did not, and what comes from elsewhere is fetched.

        Not `fresh`: it has begun already, and this agent was told of it before.
        """
        if self._store.folder is None:
            return
        uid, plan, line = order.job_uid, order.memory, _line(order)
        self._access.jobs[uid] = Permits(order.generation, frozenset(plan.keeps), frozenset(plan.lends))
        self._disk.begin(uid, order.generation, line, order.born_ns)
        self._every[uid] = order.local_every_steps
        if fresh:
            living = {record.identity.host_id for record in self._table if not record.exited}
            self._store.rewind(uid, line, living)
            self._store.forget_fetched(uid, order.generation)
        self._told.pop(uid, None)
        former = self._holders.pop(uid, None)
        if plan.holder.node and plan.holder.address:
            self._holders[uid] = (plan.holder.node, plan.holder.address)
        if former != self._holders.get(uid):
            self._store.without_partner(uid)
        if fresh:
            for source in plan.sources:
                self._fetch(order, source)

    def assign(self, message: local_pb2.LocalInstruction) -> None:
        """Complete what a process is told of its assignment."""
        if self._store.folder is None:
            return
        assignment = message.assignment
        assignment.memory_folder = str(self._store.folder)
        assignment.memory_bytes = self._store.room()
        order = assignment.generation
        if self._disk.holds(order.job_uid, assignment.rank, order.memory_step):
            assignment.disk_folder = str(self._disk.folder_of(order.job_uid))
        assignment.fetched = any(source.rank == assignment.rank for source in assignment.generation.memory.sources)

    def sweep(self, now: float) -> None:
        """Forget jobs that have had no process here for `GRACE_S`. A lost rank's state outlives its process: another takes it."""
        here = {record.identity.job_uid for record in self._table}
        for uid in here:
            self._left.pop(uid, None)
        for uid in {*self._access.jobs, *self._store.job_uids()} - here:
            if now - self._left.setdefault(uid, now) >= GRACE_S:
                self._forget(uid)
        self._disk.sweep(here, now)
        for uid in self._disk.job_uids():
            self._access.jobs.setdefault(uid, Permits(self._disk.generation(uid)))

    def _forget(self, job_uid: str) -> None:
        self._store.forget(job_uid)
        self._access.jobs.pop(job_uid, None)
        self._holders.pop(job_uid, None)
        self._every.pop(job_uid, None)
        self._told.pop(job_uid, None)
        self._seen.pop(job_uid, None)
        self._left.pop(job_uid, None)

    # What ranks say

    def taken(self, host_id: str, job_uid: str, rank: int, step: int) -> None:
        """A rank has a complete version of its state after a step: it goes to who keeps copies."""
        file, holder = self._store.own(host_id), self._holders.get(job_uid)
        if file is None:
            return
        if (every := self._every.get(job_uid, 0)) and step % every == 0:
            self._disk.offer(job_uid, rank, step, file)
        if holder is None or self._courier is None or not file.layout.unique_bytes:
            file.put(Word.PARTNERS, 0)
            return
        self._courier.offer(Parcel(job_uid, rank, step, file, holder))

    # What is said to the controller

    def held_by(self, hosts: Iterable[agent_pb2.HostStatus]) -> list[agent_pb2.HeldStates]:
        """What is held of the jobs of which a rank has stopped, for the report that says so."""
        uids = {host.job_uid for host in hosts if host.state in STOPPED}
        return [self._message(uid, self._rows(uid)) for uid in sorted(uids)]

    def held(self) -> list[agent_pb2.HeldStates]:
        """All that is held, for the hello: a machine that was away may have what a job needs that waits for it."""
        told = ((uid, self._rows(uid)) for uid in sorted(self._access.jobs))
        return [self._message(uid, rows) for uid, rows in told if rows]

    def standing(self) -> list[agent_pb2.HeldStates]:
        """What is held of jobs whose ranks stand still since the last call, or of which nothing is told yet."""
        found = []
        for uid in sorted({record.identity.job_uid for record in self._table if not record.exited}):
            rows = self._rows(uid)
            still = self._seen.get(uid) == rows
            self._seen[uid] = rows
            if rows and rows != self._told.get(uid) and (still or uid not in self._told):
                found.append(self._message(uid, rows))
        return found

    def tell_anew(self) -> None:
        """Whoever is at the other end now knows nothing."""
        self._told.clear()

    def _rows(self, uid: str) -> tuple[Row, ...]:
        living = {
            record.identity.host_id: record.assigned.rank
            for record in self._table
            if record.identity.job_uid == uid and not record.exited and record.assigned is not None
        }
        held = chain(self._store.rows(uid, living), self._disk.rows(uid))
        return tuple(islice(held, MAX_ROWS))

    def _message(self, uid: str, rows: tuple[Row, ...]) -> agent_pb2.HeldStates:
        self._told[uid] = rows
        permits = self._access.jobs.get(uid)
        return agent_pb2.HeldStates(
            job_uid=uid,
            generation=permits.generation if permits is not None else 0,
            ranks=[row.rank for row in rows],
            steps=[row.step for row in rows],
            kinds=bytes(row.kind for row in rows),
            born_ns=self._disk.born_ns(uid),
        )

    def _fetch(self, order: agent_pb2.ApplyGeneration, source: agent_pb2.MemorySource) -> None:
        key = order.job_uid, order.generation, source.rank
        if key in self._fetching:
            return
        self._fetching.add(key)

        where = source.owner
        wanted = Wanted(where.node, where.address, order.job_uid, source.rank, order.memory_step, order.generation)

        async def work() -> None:
            try:
                took_s = await asyncio.to_thread(fetch, self._trust, wanted, self._store)
            except (OSError, PeerError, ValueError) as error:
                log.warning("memory.not_fetched", rank=source.rank, holder=where.node, reason=str(error)[:300])
            else:
                log.info("memory.fetched", rank=source.rank, holder=where.node, seconds=round(took_s, 3))
            finally:
                self._fetching.discard(key)

        task = asyncio.create_task(work(), name=f"fetch rank {source.rank}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _line(order: agent_pb2.ApplyGeneration) -> Line:
    """What counts of the job's past; an older controller says where this generation starts, and no more."""
    start = order.memory_step or order.kept_step or order.restore.step
    return tuple((entry.generation, entry.step) for entry in order.line) or ((order.generation, start),)
