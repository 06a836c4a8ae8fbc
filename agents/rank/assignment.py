"""An assignment in plain values, and the arithmetic of parallel coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phalanx.v1 import local_pb2

from agents.memory.state_file import Line


@dataclass(frozen=True, slots=True)
class RankRow:
    """One row of the rank table."""

    rank: int
    node: str
    address: str
    accelerators: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A file of a checkpoint: path relative to the checkpoint's folder, size in bytes, SHA-256 in lower-case hex."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """Where a generation starts. Step 0 with no files means: from initial weights."""

    checkpoint_id: str
    step: int
    folder: Path
    files: tuple[ShardFile, ...]

    @property
    def from_scratch(self) -> bool:
        """True when there is no checkpoint to read."""
        return not self.files


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Position of a rank in each parallel dimension. `ep` and `edp` split `dp`: dp = edp * ep_degree + ep."""

    tp: int
    cp: int
    dp: int
    pp: int
    ep: int
    edp: int


@dataclass(frozen=True, slots=True)
class Degrees:
    """Parallel degrees of a job; tp * cp * dp * pp is the world size and ep divides dp.

    Ranks are numbered tp innermost, then cp, dp, pp (the order of Megatron-LM's `parallel_state`).
    """

    tp: int = 1
    cp: int = 1
    dp: int = 1
    pp: int = 1
    ep: int = 1

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.tp * self.cp * self.dp * self.pp

    def coordinates(self, rank: int) -> Coordinates:
        """Coordinates of `rank`."""
        dp = rank // (self.tp * self.cp) % self.dp
        return Coordinates(
            tp=rank % self.tp,
            cp=rank // self.tp % self.cp,
            dp=dp,
            pp=rank // (self.tp * self.cp * self.dp),
            ep=dp % self.ep,
            edp=dp // self.ep,
        )

    def data_parallel_ranks(self, rank: int) -> tuple[int, ...]:
        """Ranks that hold the same dense parameters as `rank`, in dp order."""
        return self._peers(rank, ("tp", "cp", "pp"))

    def expert_parallel_ranks(self, rank: int) -> tuple[int, ...]:
        """Ranks that together hold one copy of the experts."""
        return self._peers(rank, ("tp", "cp", "pp", "edp"))

    def expert_data_parallel_ranks(self, rank: int) -> tuple[int, ...]:
        """Ranks that hold the same experts as `rank`."""
        return self._peers(rank, ("tp", "cp", "pp", "ep"))

    def _peers(self, rank: int, same: tuple[str, ...]) -> tuple[int, ...]:
        mine = self.coordinates(rank)
        wanted = [getattr(mine, name) for name in same]
        return tuple(
            other
            for other in range(self.world_size)
            if [getattr(self.coordinates(other), name) for name in same] == wanted
        )


@dataclass(frozen=True, slots=True)
class Assignment:
    """One rank of one generation, as the node agent handed it to this process.

    `absent`: ranks that take no part, because their data-parallel replica has left.
    `memory_step`: the generation starts from the state after this step, which processes and nodes hold (0: from `restore`).
    `memory_folder`: where states lie in this node's memory (None: nowhere), with room for `memory_bytes` of this rank.
    `fetched`: its state is being brought there from another node. `disk_folder`: the agent's versions of the job on the node's own
    disk (None: none); those count that fit the `line`.
    `skips`: steps whose batches are left out. `table` has the rows of the ranks on this node, by rank; all rows where the
    controller or the node agent is older than 0.3.
    """

    job_uid: str
    job_name: str
    generation: int
    rank: int
    world_size: int
    token: str
    table: tuple[RankRow, ...]
    accelerators: tuple[int, ...]
    degrees: Degrees
    restore: RestorePoint
    store_address: str
    checkpoint_folder: Path
    checkpoint_every_steps: int
    join_timeout_s: float
    absent: frozenset[int] = frozenset()
    memory_step: int = 0
    memory_folder: Path | None = None
    memory_bytes: int = 0
    fetched: bool = False
    disk_folder: Path | None = None
    line: Line = ()
    skips: tuple[range, ...] = ()

    @property
    def participants(self) -> tuple[int, ...]:
        """Ranks that take part, ascending."""
        return tuple(rank for rank in range(self.world_size) if rank not in self.absent)

    @property
    def address(self) -> str:
        """This rank's address for rank traffic."""
        return next(row.address for row in self.table if row.rank == self.rank)


DEFAULT_JOIN_TIMEOUT_S = 60.0
MOST_SKIPS = 64
"""Ranges of steps; the controller makes a handful."""


def _absent(runs: Sequence[int], world_size: int) -> frozenset[int]:
    """Ranks of pairs (first, count). Raises ValueError when they are no runs of ranks of this world."""
    pairs = list(zip(runs[::2], runs[1::2], strict=False))
    if len(runs) % 2 or any(first + count > world_size for first, count in pairs):
        raise ValueError(f"the absent ranks {list(runs)[:8]} are no runs of a world of {world_size}")
    return frozenset(rank for first, count in pairs for rank in range(first, first + count))


def assignment_from(message: local_pb2.Assignment) -> Assignment:
    """Read an assignment.

    Raises:
        ValueError: this rank is not in the table, a table that is to be whole does not list every rank once, or the degrees
            do not fit.
    """
    body = message.generation
    table = tuple(
        RankRow(row.rank, row.node, row.address, tuple(row.accelerators))
        for row in sorted(body.rows, key=lambda row: row.rank)
    )
    ranks = [row.rank for row in table]
    if body.own_rows:
        if ranks.count(message.rank) != 1 or message.rank >= body.world_size:
            raise ValueError(f"rank table of generation {body.generation} does not list rank {message.rank} once")
    elif ranks != list(range(body.world_size)) or message.rank >= body.world_size:
        raise ValueError(
            f"rank table of generation {body.generation} does not list ranks 0..{body.world_size - 1} once"
        )
    parallel = body.parallel
    degrees = Degrees(
        tp=parallel.tp or 1, cp=parallel.cp or 1, dp=parallel.dp or 1, pp=parallel.pp or 1, ep=parallel.ep or 1
    )
    if not body.HasField("parallel"):
        degrees = Degrees(dp=body.world_size)
    if degrees.world_size != body.world_size or degrees.dp % degrees.ep:
        raise ValueError(f"parallel degrees {degrees} do not make {body.world_size} ranks with ep dividing dp")
    absent = _absent(body.absent, body.world_size)
    if message.rank in absent:
        raise ValueError(f"rank {message.rank} takes no part in generation {body.generation}")
    restore = body.restore
    return Assignment(
        job_uid=body.job_uid,
        job_name=body.job_name,
        generation=body.generation,
        rank=message.rank,
        world_size=body.world_size,
        token=message.token,
        table=table,
        accelerators=tuple(message.accelerators),
        degrees=degrees,
        restore=RestorePoint(
            checkpoint_id=restore.checkpoint_id,
            step=restore.step,
            folder=Path(restore.folder),
            files=tuple(ShardFile(file.path, file.bytes, file.sha256) for file in restore.files),
        ),
        store_address=body.store_address,
        checkpoint_folder=Path(body.checkpoint_folder),
        checkpoint_every_steps=body.checkpoint_every_steps,
        join_timeout_s=body.join_timeout_ms / 1000 or DEFAULT_JOIN_TIMEOUT_S,
        absent=absent,
        memory_step=body.memory_step,
        memory_folder=Path(message.memory_folder) if message.memory_folder else None,
        memory_bytes=message.memory_bytes,
        fetched=message.fetched,
        disk_folder=Path(message.disk_folder) if message.disk_folder else None,
        line=tuple((entry.generation, entry.step) for entry in body.line),
        skips=tuple(range(one.first, one.last + 1) for one in body.skip_steps[:MOST_SKIPS]),
    )
