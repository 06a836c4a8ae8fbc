"""Durable records about checkpoints; see `records`, which names them all."""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.core.checkpoints import Shard
from controlplane.core.vocabulary import SaveWord


@dataclass(frozen=True, slots=True)
class ShardsReported:
    """Parts of a checkpoint are on storage: those of all ranks that were told of in one turn."""

    job: str
    checkpoint: str
    generation: int
    step: int
    folder: str
    shards: tuple[Shard, ...]


@dataclass(frozen=True, slots=True)
class CheckpointCommitted:
    """All parts are there: the manifest is complete."""

    job: str
    checkpoint: str
    step: int


@dataclass(frozen=True, slots=True)
class CheckpointVerified:
    """Read back, all digests equal."""

    job: str
    checkpoint: str


@dataclass(frozen=True, slots=True)
class CheckpointPoisoned:
    """Not to be restored."""

    job: str
    checkpoint: str
    reason: str


@dataclass(frozen=True, slots=True)
class CorruptionSuspected:
    """Results of a job may be wrong since `since_ns`: checkpoints of `first_step` and later, written in generations up to
    `generation`, are POISONED for restore until this is cleared, those still being written as well."""

    job: str
    since_ns: int
    first_step: int
    generation: int
    reason: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CorruptionCleared:
    """The suspicion was unfounded, says an operator or a verification: what was POISONED by it may be restored again."""

    job: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class CheckpointsExpired:
    """Retention: files may be deleted."""

    job: str
    checkpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckpointPinned:
    """An owner wants the checkpoint kept, in place of its earlier reason."""

    job: str
    checkpoint: str
    owner: str
    reason: str


@dataclass(frozen=True, slots=True)
class CheckpointUnpinned:
    """An owner took its pin back."""

    job: str
    checkpoint: str
    owner: str


@dataclass(frozen=True, slots=True)
class CheckpointIntervalSet:
    """From its next generation on the job saves every so many steps; its manifest leaves the number to the controller."""

    job: str
    every_steps: int
    reason: str


@dataclass(frozen=True, slots=True)
class SaveAsked:
    """Before a planned stop the ranks are to save; see `checkpoints.SaveFirst`."""

    job: str
    generation: int
    cause: str
    until_ns: int
    from_step: int
    restart: bool = False


@dataclass(frozen=True, slots=True)
class SaveEnded:
    """The save before a planned stop is done (`step`), or is waited for no longer (-1). `dropped`: why the stop itself is off."""

    job: str
    generation: int
    step: int
    outcome: str
    dropped: str = ""


@dataclass(frozen=True, slots=True)
class SavesFailing:
    """A rank could not save as it should: the first that said so, and one a minute after it."""

    job: str
    generation: int
    step: int
    rank: int
    word: SaveWord
    reason: str


@dataclass(frozen=True, slots=True)
class SavesRecovered:
    """A later step than those that could not be saved is complete."""

    job: str
    step: int


@dataclass(frozen=True, slots=True)
class ScrubStarted:
    """A node reads a verified checkpoint back anew, slowly."""

    job: str
    checkpoint: str
    node: str
