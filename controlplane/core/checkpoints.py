"""Checkpoints of a job as the journal knows them, and the choice of a restore point."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from controlplane.core.columns import BoolColumn
from controlplane.core.vocabulary import CheckpointState, SaveWord


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One file of a shard: path relative to the checkpoint's folder, size in bytes, SHA-256 in hex."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Shard:
    """What one rank reported: its files, the stall of the save (ns) and when the saved step was reached (Unix ns)."""

    rank: int
    files: tuple[ShardFile, ...]
    save_stall_ns: int
    reached_ns: int


@dataclass(frozen=True, slots=True)
class Told:
    """What follows from the parts of a checkpoint, kept so that a new part costs nothing for those before it: mask over ranks
    up to the highest that has reported, and the latest and longest of their times."""

    ranks: BoolColumn
    reached_ns: int = 0
    save_stall_ns: int = 0

    def with_shards(self, shards: tuple[Shard, ...]) -> Told:
        """With some more parts."""
        if not shards:
            return self
        numbers = [shard.rank for shard in shards]
        ranks = np.zeros(max(len(self.ranks), max(numbers) + 1), dtype=np.bool_)
        ranks[: len(self.ranks)] = self.ranks
        ranks[numbers] = True
        return Told(
            ranks,
            max(self.reached_ns, *(shard.reached_ns for shard in shards)),
            max(self.save_stall_ns, *(shard.save_stall_ns for shard in shards)),
        )


NOTHING_TOLD = Told(np.zeros(0, dtype=np.bool_))


MAX_PINS = 16
"""Owners of one checkpoint."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One owned reason why a checkpoint must be kept."""

    owner: str
    reason: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint; WRITING until every rank of its generation has reported.

    `productive_ns` is the job's PRODUCTIVE ledger value at the moment the step was reached: what lies above it is lost
    when the job goes back to here. `suspected`: POISONED only because it was written under suspicion, until that is cleared.
    `participants`: ranks that write a part (0: all of the job). `verified_ns`: read back last, `scrubbed_ns`: ordered to be
    read back anew last, Unix ns; 0: never.
    """

    id: str
    generation: int
    step: int
    folder: str
    state: CheckpointState
    shards: tuple[Shard, ...] = ()
    committed_ns: int = 0
    productive_ns: int = 0
    reason: str = ""
    pins: tuple[Pin, ...] = ()
    suspected: bool = False
    participants: int = 0
    verified_ns: int = 0
    scrubbed_ns: int = 0
    _told: Told | None = field(default=None, init=False, repr=False, compare=False)

    def with_shards(self, shards: tuple[Shard, ...]) -> Checkpoint:
        """With the parts of ranks that have not reported yet. The parts that are known already are not looked at again."""
        result = replace(self, shards=self.shards + shards)
        object.__setattr__(result, "_told", self._summary().with_shards(shards))
        return result

    def _summary(self) -> Told:
        if self._told is None:
            object.__setattr__(self, "_told", NOTHING_TOLD.with_shards(self.shards))
        return self._told or NOTHING_TOLD

    def has(self, rank: int) -> bool:
        """Whether a rank has reported its part."""
        ranks = self._summary().ranks
        return rank < len(ranks) and bool(ranks[rank])

    @property
    def reached_ns(self) -> int:
        """When the last rank had made the step, Unix ns; 0 before any has reported."""
        return self._summary().reached_ns

    @property
    def save_stall_ns(self) -> int:
        """How long the save held up the rank that waited longest."""
        return self._summary().save_stall_ns

    @property
    def files(self) -> tuple[ShardFile, ...]:
        """All files, by rank."""
        return tuple(file for shard in sorted(self.shards, key=lambda s: s.rank) for file in shard.files)

    @property
    def restorable(self) -> bool:
        """Complete and not poisoned."""
        return self.state in (CheckpointState.COMMITTED, CheckpointState.VERIFIED)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoragePolicy:
    """`save_first_ms`: before a planned stop the ranks save, for so long at most; 0: they do not. `scrub_every_ms`: verified
    checkpoints are read back so often, one at a time; 0: never. `scrub_mb_per_s`: no faster than this, megabytes a second."""

    save_first_ms: int = 30_000
    scrub_every_ms: int = 86_400_000
    scrub_mb_per_s: int = 100


@dataclass(frozen=True, slots=True)
class SaveFirst:
    """A save that was asked for before a planned stop. `from_step`: a checkpoint of a later step is that save. `restart`: an
    operator restarts the job after it. `ended_ns`: the waiting is over, Unix ns; 0: not yet. `outcome`: how, in words."""

    cause: str
    generation: int
    asked_ns: int
    until_ns: int
    from_step: int
    restart: bool = False
    ended_ns: int = 0
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class SaveTrouble:
    """Ranks cannot save as they should, and no later step has been saved since. `since_ns`, `told_ns`: the first and the newest
    time that this was written down, Unix ns."""

    step: int
    rank: int
    word: SaveWord
    reason: str
    since_ns: int
    told_ns: int


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Results may be wrong since `since_ns` (the first sign, Unix ns): from step `first_step` on, in generations up to
    `generation`. A later generation starts from before it, on what is left after the verdict."""

    since_ns: int
    first_step: int
    generation: int
    reason: str
    evidence: tuple[str, ...] = ()

    def covers(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint was written under this suspicion."""
        return checkpoint.generation <= self.generation and checkpoint.step >= self.first_step


def first_suspect_step(checkpoints: Iterable[Checkpoint], since_ns: int) -> int:
    """The first step that may be wrong when results are suspect since a moment: the one after the newest checkpoint whose
    step was made before it."""
    return 1 + max((c.step for c in checkpoints if c.committed_ns and 0 < c.reached_ns < since_ns), default=0)


def passed_over(checkpoints: Iterable[Checkpoint], count: int) -> tuple[Checkpoint, ...]:
    """The newest `count` restorable checkpoints, newest first: what a rollback by so many goes past."""
    usable = sorted((c for c in checkpoints if c.restorable), key=lambda c: (c.step, c.generation), reverse=True)
    return tuple(usable[:count])


def checkpoint_id(job_uid: str, generation: int, step: int) -> str:
    """Name of a checkpoint: job, generation that wrote it, step."""
    return f"{job_uid}/g{generation}/step-{step}"


def is_own_folder(folder: str, checkpoint: str) -> bool:
    """Whether a rank may say that a checkpoint lies there: `<root>/<checkpoint id>`, absolute, with no way around.

    What a checkpoint's folder is called is all that other nodes go by when they read it, or delete it.
    """
    parts = folder.split("/")
    named = folder.startswith("/") and folder.endswith(f"/{checkpoint}") and "\0" not in folder
    return named and not {"", ".", ".."} & {*parts[1:]}


def is_inside(path: str) -> bool:
    """Whether a file's path stays inside of its checkpoint's folder."""
    return not path.startswith("/") and "\0" not in path and not {"", ".."} & {*path.split("/")}


def restore_point(checkpoints: Iterable[Checkpoint], limit: int = -1) -> Checkpoint | None:
    """The newest complete, unpoisoned checkpoint; None means step 0. Ties go to the later generation. `limit`: no newer step
    than this, -1: any."""
    usable = [c for c in checkpoints if c.restorable and (limit < 0 or c.step <= limit)]
    return max(usable, key=lambda c: (c.step, c.generation), default=None)


def pinned(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """The checkpoint that retention must never delete (S10): the newest VERIFIED one, else the newest restorable one."""
    known = list(checkpoints)
    verified = [c for c in known if c.state is CheckpointState.VERIFIED]
    return restore_point(verified) or restore_point(known)


def expirable(checkpoints: Iterable[Checkpoint], keep: int, current: str) -> tuple[str, ...]:
    """Ids that retention may delete: beyond the newest `keep` restorable ones; never the newest verified one, `current`, or
    one that somebody has pinned.

    WRITING ones of a step older than the newest committed one can never be completed usefully and go too. Of those that are
    only suspected the newest `keep` stay, because the suspicion may be cleared.
    """
    known = list(checkpoints)
    usable = sorted((c for c in known if c.restorable), key=lambda c: (c.step, c.generation), reverse=True)
    keeper = pinned(known)
    spare = {current, keeper.id if keeper else "", *(c.id for c in known if c.pins)}
    old = [c.id for c in usable[keep:]]
    newest = usable[0].step if usable else -1
    abandoned = [
        c.id
        for c in known
        if c.state in (CheckpointState.WRITING, CheckpointState.POISONED) and c.step < newest and not c.suspected
    ]
    suspects = sorted((c for c in known if c.suspected), key=lambda c: (c.step, c.generation), reverse=True)
    abandoned += [c.id for c in suspects[keep:]]
    return tuple(sorted(set(old + abandoned) - spare))
