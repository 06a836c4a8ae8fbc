"""What may be read and what may be deleted: S5 and S10."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from controlplane.core import records as r
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.recovery.restore_point import Tier
from controlplane.core.state import State
from controlplane.core.units import seconds
from controlplane.core.vocabulary import CheckpointState
from controlplane.sim.checkers.base import Checker, Durable, Finding
from controlplane.sim.checkers.book import Book, numbers
from controlplane.sim.checkers.lines import CheckpointLine, JobLine

if TYPE_CHECKING:
    from controlplane.sim.world.gangs import Gang
    from controlplane.sim.world.site import World


LEASE_S = 10.0
"""A controller that another one has replaced may have written its last record so long before, by whatever clock."""


def _held_by_nobody(record: r.GenerationStarted, gang: Gang, since_ns: int, *, replicated: bool) -> list[int]:
    """Ranks that are said to go on from a survivor's state, of which none lived at `since_ns`, the world's time of the
    decision. `replicated`: a replica's will do."""
    members = gang.members.items()
    living = [rank for rank, process in members if process.exit is None or process.since_ns > since_ns]
    if replicated:
        states = {gang.parallel.state_of(rank) for rank in living}
        return [rank for rank in _from_survivors(record) if gang.parallel.state_of(rank) not in states]
    return sorted({*_from_survivors(record)} - {*living})


def _from_survivors(record: r.GenerationStarted) -> list[int]:
    return [rank for source in record.sources if source.tier == Tier.SURVIVOR.words for rank in numbers(source.runs)]


class StartsFromARestorePoint(Checker):
    """S5: step 0, or a checkpoint of which every rank's shard was reported, that is not poisoned, at the step that is said."""

    invariant = "S5"
    watches = (r.GenerationStarted,)

    def __init__(self) -> None:
        self._tiers: list[tuple[r.GenerationStarted, int]] = []

    def submitted(self, effects: Sequence[Effect], book: Book, world: World) -> Iterator[Finding]:
        """Nobody has acted on what is new: the processes are still those that the decision was made about. Only a commit of
        uncertain outcome becomes known later than it was decided, and who has ended since then lived at that time."""
        return self._compare(world, 0.0)

    def restarted(self, state: State, book: Book, world: World) -> Iterator[Finding]:
        """A crash has hidden what its turn had stored; clocks of two controllers may differ."""
        return self._compare(world, LEASE_S)

    def turn(self, after: State, book: Book, world: World) -> Iterator[Finding]:
        """Every generation was judged before, for each has an effect."""
        for record, _ in self._tiers:
            yield Finding(record.job, f"generation {record.generation} of {record.job} is in force, and nobody is told")

    def _compare(self, world: World, least_s: float) -> Iterator[Finding]:
        """What is taken from processes and from memory is compared with who was left to have it. `least_s`: so long ago at
        least it may have been decided."""
        tiers, self._tiers = self._tiers, []
        for record, at_ns in tiers:
            since_ns = world.now_ns - max(seconds(least_s), world.leader.clock_ns() - at_ns)
            gang, spec = world.gangs.newest.get(record.job), world.job(record.job).spec
            start = f"generation {record.generation} of {record.job} starts from"
            if gang is None or gang.name not in world.keeps_copies:
                yield Finding(record.job, f"{start} memory, and nobody keeps copies of it")
            elif record.restore_step > world.gangs.step(record.job):
                yield Finding(record.job, f"{start} step {record.restore_step}, which it has never made")
            elif lost := _held_by_nobody(record, gang, since_ns, replicated=spec.checkpoint.replicated):
                yield Finding(record.job, f"{start} what processes hold, and nobody holds the state of ranks {lost}")

    def record(self, seen: Durable, book: Book) -> Iterator[Finding]:
        """Look at the restore point of each new generation."""
        record = seen.record
        assert isinstance(record, r.GenerationStarted)
        job = book.jobs[record.job]
        start = f"generation {record.generation} of {job.uid} starts from"
        if record.keeps_state:
            newcomers = numbers(record.changed_ranks)
            if newcomers:
                yield Finding(job.uid, f"{start} what its processes hold, and those of ranks {newcomers} hold nothing")
            return
        if record.sources:
            self._tiers.append((record, seen.at_ns))
            told, wanted = sum(source.ranks for source in record.sources), len(job.taking_part_now)
            if told != wanted:
                yield Finding(job.uid, f"{start} several tiers, which hold the state of {told} ranks of {wanted}")
            return
        if not record.restore_id:
            if record.restore_step:
                yield Finding(job.uid, f"{start} step {record.restore_step} of no checkpoint")
            return
        line = job.checkpoints.get(record.restore_id)
        if line is None:
            yield Finding(job.uid, f"{start} {record.restore_id}, which does not exist")
            return
        missing = sorted(line.owed - set(line.shards))
        if missing:
            yield Finding(job.uid, f"{start} {line.id} without the shards of ranks {missing}")
        elif not line.restorable:
            yield Finding(job.uid, f"{start} {line.id}, which is {line.state.name}")
        if line.step != record.restore_step:
            yield Finding(job.uid, f"{start} step {record.restore_step}, {line.id} is of step {line.step}")


class LastGoodIsKept(Checker):
    """S10: retention never takes the newest verified checkpoint without a newer one, nor a pinned one, nor files in use."""

    invariant = "S10"
    watches = (r.CheckpointsExpired,)

    def record(self, seen: Durable, book: Book) -> Iterator[Finding]:
        """Look at what retention lets go."""
        record = seen.record
        assert isinstance(record, r.CheckpointsExpired)
        job = book.jobs[record.job]
        gone = set(record.checkpoints)
        keeper = _last_good(job)
        if keeper is not None and keeper.id in gone:
            yield Finding(
                job.uid, f"retention deletes {keeper.id}, the newest {keeper.state.name} checkpoint of {job.uid}"
            )
        for line in job.checkpoints.values():
            if line.id in gone and line.pins:
                yield Finding(job.uid, f"retention deletes {line.id}, pinned by {', '.join(sorted(line.pins))}")

    def submitted(self, effects: Sequence[Effect], book: Book, world: World) -> Iterator[Finding]:
        """Folders that are to be deleted hold nothing that may still be restored."""
        for effect in effects:
            job = book.jobs.get(effect.job)
            if effect.kind is not EffectKind.SWEEP_FOLDERS or job is None or job.ended:
                continue
            for line in job.checkpoints.values():
                if line.restorable and line.folder in effect.items:
                    yield Finding(
                        job.uid, f"effect {effect.id} deletes {line.folder} of {line.id}, which is {line.state.name}"
                    )


def _last_good(job: JobLine) -> CheckpointLine | None:
    """The newest VERIFIED checkpoint, else the newest COMMITTED one."""
    for state in (CheckpointState.VERIFIED, CheckpointState.COMMITTED):
        known = [line for line in job.checkpoints.values() if line.state is state]
        if known:
            return max(known, key=lambda line: (line.step, line.generation))
    return None
