"""Rank tables of the jobs on this node: whole tables kept, patches merged, assignments cut from them."""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError
from phalanx.v1 import agent_pb2, local_pb2

from agents.node.durable import replace_file
from agents.node.frames import MAX_FRAME_BYTES
from agents.node.hosts import HeldAssignment

TABLES_PER_JOB = 4
JOB_LIMIT = 256
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A generation that cannot be applied. `need_full`: the whole table would help; nothing was done."""

    message: str
    need_full: bool = False


class GenerationTables:
    """The newest tables of each job by generation. Pure; `GenerationStore` keeps them on disk."""

    def __init__(self) -> None:
        self.jobs: OrderedDict[str, OrderedDict[int, agent_pb2.ApplyGeneration]] = OrderedDict()

    def newest(self, job_uid: str) -> int:
        """Newest generation of the job seen on this node; 0 when none."""
        return max(self.jobs.get(job_uid, ()), default=0)

    def table(self, job_uid: str, generation: int) -> agent_pb2.ApplyGeneration | None:
        """The whole table of a generation, if it is still kept."""
        return self.jobs.get(job_uid, OrderedDict()).get(generation)

    def merge(self, order: agent_pb2.ApplyGeneration) -> agent_pb2.ApplyGeneration | Rejected:
        """The order with its whole table, patches merged into their base. Changes nothing."""
        newest = self.newest(order.job_uid)
        if order.generation < newest:
            return Rejected(f"generation {order.generation} is older than {newest}, which this node already has")
        if order.generation == 0 or order.world_size == 0:
            return Rejected("a generation needs a number and a world size above 0")
        if order.own_rows:
            return _own(order)
        rows: dict[int, agent_pb2.RankRow] = {}
        if order.base_generation:
            base = self.table(order.job_uid, order.base_generation)
            if base is None or base.own_rows:
                return Rejected("need full table", need_full=True)
            rows = {row.rank: row for row in base.rows if row.rank < order.world_size}
        rows.update((row.rank, row) for row in order.rows)
        if len(rows) != order.world_size or max(rows) != order.world_size - 1:
            message = f"the table holds {len(rows)} ranks, the world has {order.world_size}"
            patched = order.base_generation != 0
            return Rejected(f"need full table: {message}" if patched else message, need_full=patched)
        whole = agent_pb2.ApplyGeneration()
        whole.CopyFrom(order)
        whole.base_generation = 0
        del whole.rows[:]
        whole.rows.extend(rows[rank] for rank in sorted(rows))
        if whole.ByteSize() + 1024 > MAX_FRAME_BYTES:
            return Rejected(
                f"the table takes {whole.ByteSize()} bytes, a frame to a rank holds {MAX_FRAME_BYTES}; "
                "use fewer ranks or shorter node names"
            )
        return whole

    def keep(self, whole: agent_pb2.ApplyGeneration) -> None:
        """Remember a whole table; the oldest of the job, and the job used longest ago, make room."""
        tables = self.jobs.setdefault(whole.job_uid, OrderedDict())
        tables[whole.generation] = whole
        self.jobs.move_to_end(whole.job_uid)
        while len(tables) > TABLES_PER_JOB:
            tables.popitem(last=False)

    def drop(self, job_uid: str) -> None:
        """Forget a job."""
        self.jobs.pop(job_uid, None)


def _own(order: agent_pb2.ApplyGeneration) -> agent_pb2.ApplyGeneration | Rejected:
    """The order itself, if it holds the row of every rank that it binds here."""
    missing = {binding.rank for binding in order.bindings} - {row.rank for row in order.rows}
    if missing:
        return Rejected(f"the rows of ranks {sorted(missing)[:8]} are missing, which are bound here")
    return order


def assignment_message(whole: agent_pb2.ApplyGeneration, held: HeldAssignment) -> local_pb2.LocalInstruction:
    """What a process is told of its newest assignment."""
    return local_pb2.LocalInstruction(
        assignment=local_pb2.Assignment(
            generation=whole, rank=held.rank, accelerators=held.accelerators, token=held.token
        )
    )


class GenerationStore:
    """Keeps the tables in NODE_DIR/generations, one file per job, so that a restarted agent can assign again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.tables = GenerationTables()
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in sorted(folder.glob("*.tables"), key=lambda item: item.stat().st_mtime):
            self._load(path)

    def keep(self, whole: agent_pb2.ApplyGeneration) -> None:
        """Remember a table, in memory and on disk."""
        self.tables.keep(whole)
        while len(self.tables.jobs) > JOB_LIMIT:
            self.drop(next(iter(self.tables.jobs)))
        bodies = [table.SerializeToString() for table in self.tables.jobs[whole.job_uid].values()]
        replace_file(self._path(whole.job_uid), b"".join(_LENGTH.pack(len(body)) + body for body in bodies))

    def drop(self, job_uid: str) -> None:
        """Forget a job of which no host is left."""
        self.tables.drop(job_uid)
        self._path(job_uid).unlink(missing_ok=True)

    def _load(self, path: Path) -> None:
        data = path.read_bytes()
        try:
            while data:
                (length,) = _LENGTH.unpack_from(data)
                self.tables.keep(agent_pb2.ApplyGeneration.FromString(data[_LENGTH.size : _LENGTH.size + length]))
                data = data[_LENGTH.size + length :]
        except (struct.error, DecodeError):
            # A table that cannot be read is asked for again ("need full table"): nothing is lost with it.
            path.unlink()

    def _path(self, job_uid: str) -> Path:
        # The uid comes from outside: its digest is always a safe file name.
        return self._folder / f"{hashlib.sha256(job_uid.encode()).hexdigest()[:32]}.tables"
