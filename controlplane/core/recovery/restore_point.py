"""Where a generation starts: the newest step for which every rank's state exists, whatever tier it lies on. Pure.

A rank's state may be held by the surviving process itself, by a copy in another node's memory, on a local disk, or by a
committed manifest on shared storage; step 0 needs none. The newest step wins over the cheaper tier; at one step every rank
takes the cheapest tier that has it. A step is refused for one missing or damaged shard, and the next older one is looked at:
that is how a restore falls back past a bad shard by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from controlplane.core.checkpoints import Checkpoint
from controlplane.core.checkpoints import restore_point as newest_manifest
from controlplane.core.columns import BoolColumn, ByteColumn, IntColumn, LongColumn
from controlplane.core.vocabulary import Code

NO_STEP = -1
"""Nothing is held."""
NOBODY = -1
"""No node."""
NOWHERE = 255
"""Instead of a tier: nobody holds it."""
MAX_CANDIDATES = 64
"""Distinct steps that are looked at; ranks of a synchronous job differ by one or two."""


class StepTag(Code):
    """Where in a step a rank was when it stopped (FlashRecovery, arXiv 2509.03047)."""

    COMPUTING = 0
    OPTIMIZER = 1
    DONE = 2


class Tier(Code):
    """Where a state lies, cheapest to fetch first."""

    SURVIVOR = 1
    MEMORY = 2
    LOCAL_DISK = 3
    SHARED = 4
    START = 5

    @property
    def words(self) -> str:
        """For people."""
        return self.name.lower().replace("_", " ")


def whole_step(step: LongColumn, tag: ByteColumn) -> LongColumn:
    """The step that a rank's own state stands for, NO_STEP when it is torn.

    A rank in step i that still computes holds the result of step i-1; inside the optimizer its state is half changed; once
    done it holds the result of step i. Steps count from 1; the state before the first one is step 0.
    """
    held = np.where(tag == StepTag.DONE, step, step - 1)
    return np.where(tag == StepTag.OPTIMIZER, NO_STEP, held).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Copies:
    """What agents say they hold of a job, asked for at recovery: columns of shape (ranks, k), k states per rank.

    `step`: NO_STEP where there is nothing; `owner`: node number that holds it; `tier`: a `Tier` below SHARED; `intact`: the
    digest was compared and agrees. `partial`: what data-parallel replicas hold alike is not in it, so that it counts only where one
    of them has the same step whole (None: all are whole). `replicated`: ranks say that replicas hold all of their state. `told`:
    numbers of the nodes that have said what they hold in this generation; None: nobody keeps anything of this job.
    """

    step: LongColumn
    owner: IntColumn
    tier: ByteColumn
    intact: BoolColumn
    partial: BoolColumn | None = None
    replicated: bool = False
    told: LongColumn | None = None

    @staticmethod
    def none() -> Copies:
        """Nobody holds anything: shared storage is all there is."""
        return Copies(
            np.zeros((0, 0), np.int64), np.zeros((0, 0), np.int32), np.zeros((0, 0), np.uint8), np.zeros((0, 0), bool)
        )

    def kept(self, mask: BoolColumn) -> Copies:
        """Without those outside of the mask: their node is gone, or their process."""
        return replace(self, step=np.where(mask, self.step, NO_STEP))


@dataclass(frozen=True, slots=True)
class RestorePoint:
    """Where to start. `checkpoint`: the manifest of that step, "" where there is none. `tiers`: how many ranks take their
    state from where; `tier` (0: it does not take part) and `owner` (NOBODY: no node): the same for each rank, empty when all
    take it from one place. `passed_over`: newer steps that were refused, with the reason, newest first."""

    step: int
    checkpoint: str
    tiers: tuple[tuple[str, int], ...]
    tier: ByteColumn
    owner: IntColumn
    passed_over: tuple[str, ...] = ()

    def steps_lost(self, reached: int) -> int:
        """Steps to be made again by a job that had reached that step."""
        return max(0, reached - self.step)


def source(checkpoint: str, step: int, tiers: Iterable[tuple[str, int]]) -> str:
    """Where a generation started from, in words."""
    held = [(words, ranks) for words, ranks in tiers if words not in (Tier.SHARED.words, Tier.START.words)]
    if not held:
        return f"checkpoint {checkpoint}" if checkpoint else "initial weights"
    rest = f", others checkpoint {checkpoint}" if checkpoint else ""
    return f"step {step}: " + ", ".join(f"{words} {ranks}" for words, ranks in held) + rest


_NO_OWNERS = np.zeros(0, dtype=np.int32)
_NO_TIERS = np.zeros(0, dtype=np.uint8)


def restore_point(
    needed: BoolColumn,
    copies: Copies,
    manifests: Iterable[Checkpoint],
    *,
    trusted_below: int | None = None,
    same_state: IntColumn | None = None,
    replicas: IntColumn | None = None,
) -> RestorePoint:
    """The restore point of a job.

    Args:
        needed: (ranks,) which ranks take part: the state of the others is not asked for.
        copies: what is held beside shared storage; rows of lost holders already taken out (`Copies.kept`).
        manifests: checkpoints of the journal.
        trusted_below: state of this step and later is under suspicion and not used (None: no suspicion); manifests say
            so themselves by being POISONED.
        same_state: (ranks,) number of the state that a rank has; ranks of one number hold the same (data-parallel
            replicas of an unsharded optimizer), so that one of them is enough. None: all differ.
        replicas: (ranks,) number of the group of data-parallel replicas that a rank belongs to; needed for partial copies.
    """
    manifest = newest_manifest(manifests)
    floor = manifest.step if manifest else 0
    ranks = int(np.count_nonzero(needed))
    passed: list[str] = []
    if len(copies.step) == len(needed):
        held = np.where(copies.intact, copies.step, NO_STEP)
        limit = int(held.max(initial=NO_STEP)) if trusted_below is None else trusted_below - 1
        for step in _newest_first(held, max(1, floor), limit):
            at_floor = manifest if step == floor else None
            tier, owner = _at_step(copies, _complete(copies, held == step, replicas), same_state)
            missing = needed & (tier == NOWHERE)
            if at_floor or not missing.any():
                return _mixed(step, needed, tier, owner, at_floor, tuple(passed))
            count, first = int(np.count_nonzero(missing)), int(np.argmax(missing))
            passed.append(f"step {step}: no state of {count} of {ranks} ranks, first rank {first}")
    where = Tier.SHARED if manifest else Tier.START
    tiers = ((where.words, ranks),)
    return RestorePoint(floor, manifest.id if manifest else "", tiers, _NO_TIERS, _NO_OWNERS, tuple(passed))


def _newest_first(held: LongColumn, oldest: int, limit: int) -> Iterator[int]:
    """Distinct steps from `limit` down to `oldest`."""
    for _ in range(MAX_CANDIDATES):
        step = int(np.where(held <= limit, held, NO_STEP).max(initial=NO_STEP))
        if step < oldest:
            return
        yield step
        limit = step - 1


def _complete(copies: Copies, held: BoolColumn, replicas: IntColumn | None) -> BoolColumn:
    """Without partial copies for which no replica has the rest."""
    if copies.partial is None or replicas is None or not (held & copies.partial).any():
        return held
    whole = (held & ~copies.partial).any(axis=1)
    has_rest = np.zeros(int(replicas.max(initial=0)) + 1, dtype=np.bool_)
    has_rest[replicas[whole]] = True
    mask: BoolColumn = held & (~copies.partial | has_rest[replicas][:, None])
    return mask


def _at_step(copies: Copies, held: BoolColumn, same_state: IntColumn | None) -> tuple[ByteColumn, IntColumn]:
    """(tier, node) of the cheapest held state for every rank; NOWHERE where there is none."""
    tier = np.full(len(held), NOWHERE, dtype=np.uint8)
    owner = np.full(len(held), NOBODY, dtype=np.int32)
    for column in range(held.shape[1]):
        cheaper = held[:, column] & (copies.tier[:, column] < tier)
        tier = np.where(cheaper, copies.tier[:, column], tier)
        owner = np.where(cheaper, copies.owner[:, column], owner)
    if same_state is None or (tier != NOWHERE).all():
        return tier, owner
    order = np.lexsort((tier, same_state))  # a replica that has it stands first in its group
    first = order[np.searchsorted(same_state[order], same_state, side="left")]
    lacks = tier == NOWHERE
    return np.where(lacks, tier[first], tier), np.where(lacks, owner[first], owner)


def _mixed(  # noqa: PLR0917 - the columns of one choice
    step: int,
    needed: BoolColumn,
    tier: ByteColumn,
    owner: IntColumn,
    manifest: Checkpoint | None,
    passed: tuple[str, ...],
) -> RestorePoint:
    """Every rank from its own cheapest tier; those without any from the manifest of the same step."""
    tier = np.where(tier == NOWHERE, np.uint8(Tier.SHARED), tier)
    counts = np.bincount(tier[needed], minlength=Tier.START + 1)
    tiers = tuple((Tier(int(kind)).words, int(counts[kind])) for kind in np.flatnonzero(counts))
    return RestorePoint(
        step, manifest.id if manifest else "", tiers, np.where(needed, tier, np.uint8(0)), owner, passed
    )
