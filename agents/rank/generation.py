"""One attempt of a job as one of its ranks sees it: the table, the groups, the restore point, the ways it ends."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, cast

from phalanx.v1 import agent_pb2, local_pb2, types_pb2

from agents.rank import flight
from agents.rank.assignment import Assignment, Coordinates, Degrees, RankRow, RestorePoint, ShardFile
from agents.rank.control import Control
from agents.rank.errors import EXIT_PEER_LOST, GenerationChanged, ReplicaDivergence
from agents.rank.link import note
from agents.rank.outbox import RankFacts, age_ms
from agents.rank.phases import PhaseClock
from agents.rank.saving import SaveSchedule
from agents.rank.sockets import Endpoint, shut_down_connections

if TYPE_CHECKING:
    from agents.rank.group import Collectives, Group
    from agents.rank.rendezvous import Joiner

PEER_LOSS_PATIENCE = 10
"""Join time-outs to wait for a new generation after a peer was lost; then exit code 75."""

JOIN_POLL_S = 0.02
SAVE_REASON_LIMIT = 500
"""Characters of what a rank says of a save."""

SETTLE_TIMEOUT_S = 0.1
"""For operations in flight to end with an error after their connections were shut down (measured: 1-2 ms)."""

_lingering: list[Group] = []
"""Groups with an operation that gloo has not ended yet; their destructor would block. Looked at again at every drop: the
operation ends with its own time-out (`rendezvous.COLLECTIVE_PATIENCE`) at the latest."""


class Reporter(Protocol):
    """What a generation says through its context."""

    def facts(self) -> RankFacts:
        """Newest status."""

    def report(self, facts: RankFacts) -> None:
        """Send a status."""

    def send(self, key: tuple[str | int, ...], message: Any, *, acknowledged: bool) -> None:
        """Send `message(now)` reliably."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Process groups of a generation; dimensions with the same members share one object."""

    world: Group
    data_parallel: Group
    expert_parallel: Group
    expert_data_parallel: Group


class Generation:
    """One rank table of the job, until the next one. Use it as a context manager around all work of the attempt.

    `with generation:` drops the process groups at its end and swallows what is only a consequence of the generation
    being over: GenerationChanged, and any exception raised after a collective failed or a newer generation came.
    """

    def __init__(
        self, assignment: Assignment, control: Control, reporter: Reporter, clock: PhaseClock | None = None
    ) -> None:
        self.assignment = assignment
        self.clock = clock or PhaseClock()
        self._control = control
        self._reporter = reporter
        self._groups: dict[str, Group] = {}
        self._endpoints: frozenset[Endpoint] = frozenset()
        self._broken_since: float | None = None
        self._on_end: list[Callable[[], None]] = []
        self._saves: SaveSchedule | None = None
        control.on_change(self._interrupt)

    @property
    def number(self) -> int:
        """The generation's number; grows, is never reused."""
        return self.assignment.generation

    @property
    def rank(self) -> int:
        """This process's rank."""
        return self.assignment.rank

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.assignment.world_size

    @property
    def participants(self) -> tuple[int, ...]:
        """Ranks that take part, ascending: all of them, but for those of data-parallel replicas that have left."""
        return self.assignment.participants

    @property
    def shares(self) -> tuple[int, ...]:
        """Shares of the global batch that this rank computes, by the dp coordinate that they belong to: its own first, and those of
        replicas that have left, dealt out in turn to the sets of `ep` replicas that are there. All members of an expert-parallel
        group have equally many, so that the global batch stays what it was."""
        degrees, at = self.degrees, self.coordinates
        there = {rank // (degrees.tp * degrees.cp) % degrees.dp // degrees.ep for rank in self.participants}
        present, gone = sorted(there), sorted({*range(degrees.dp // degrees.ep)} - there)
        mine = [number for turn, number in enumerate(gone) if present[turn % len(present)] == at.edp]
        return (at.dp, *(number * degrees.ep + at.ep for number in mine))

    @property
    def table(self) -> tuple[RankRow, ...]:
        """Rows of the rank table for the ranks on this node, by rank. Others are met through the groups."""
        return self.assignment.table

    @property
    def degrees(self) -> Degrees:
        """Parallel degrees of the job."""
        return self.assignment.degrees

    @property
    def coordinates(self) -> Coordinates:
        """This rank's parallel coordinates."""
        return self.assignment.degrees.coordinates(self.assignment.rank)

    @property
    def restore(self) -> RestorePoint:
        """What to start from."""
        return self.assignment.restore

    @property
    def checkpoint_folder(self) -> Path:
        """This generation's own folder: write `step-<n>/<part>/...` here and nowhere else."""
        return self.assignment.checkpoint_folder

    @property
    def job_folder(self) -> Path:
        """Folder of the whole job on shared storage, for what outlives a generation (metrics)."""
        return self.assignment.checkpoint_folder.parent

    @property
    def checkpoint_every_steps(self) -> int:
        """Steps between checkpoints; 0: none."""
        return self.assignment.checkpoint_every_steps

    def skipped(self, step: int) -> bool:
        """Whether the batch of `step` (counted from 1) is to be left out: numbers were off when it was used. Count the step, and
        change nothing else; all ranks do so alike."""
        return any(step in steps for steps in self.assignment.skips)

    @property
    def over(self) -> bool:
        """True when a newer generation has come or a peer was lost."""
        return self._control.newest_generation > self.number or self._broken_since is not None

    def check(self) -> None:
        """Raise GenerationChanged when a newer generation has come, SystemExit(143) when asked to stop."""
        self._control.check_stop()
        if self._control.newest_generation > self.number:
            raise GenerationChanged(f"generation {self.number} is over, {self._control.newest_generation} is here")

    def join(self) -> Groups:
        """Meet all ranks of the generation and build the groups. Reports RESTORING when that is done.

        Raises GenerationChanged when a newer one comes meanwhile, or when building failed (a peer was lost).
        """
        from agents.rank.rendezvous import Joiner  # noqa: PLC0415  torch is imported only by who joins

        members = self._members()
        joiner = Joiner(self.assignment, members)
        joiner.start()
        deadline = time.monotonic() + self._patience_s
        try:
            while not joiner.done.wait(JOIN_POLL_S):
                self.check()
                if time.monotonic() > deadline:
                    raise self._given_up("did not meet all its ranks")
        finally:
            joiner.abandon()
        self._adopt(joiner, members)
        self._reporter.report(
            replace(self._reporter.facts(), state=types_pb2.RANK_STATE_RESTORING, rendezvous_at=time.monotonic())
        )
        group = {ranks: self._groups[name] for name, ranks in members.items()}
        wanted = self._dimensions()
        return Groups(**{name: group[ranks] for name, ranks in wanted.items()})

    def restored(self) -> None:
        """State is loaded; optional, the first progress implies it."""
        self._reporter.report(replace(self._reporter.facts(), restored_at=time.monotonic()))

    def restore_failed(self, file: str, reason: str, *, memory: bool = False) -> None:
        """Report a bad file of the restore point, wait for the next generation and raise GenerationChanged.

        With `memory`: a state that nobody holds although the generation starts from it.
        """
        note(f"restore from {'memory' if memory else self.restore.folder} failed: {file}: {reason}")
        message = local_pb2.LocalRequest(
            restore_failed=agent_pb2.RestoreFailed(
                job_uid=self.assignment.job_uid,
                generation=self.number,
                rank=self.rank,
                checkpoint_id="" if memory else self.restore.checkpoint_id,
                file=file,
                reason=reason,
            )
        )
        self._reporter.send(("restore", self.number), lambda _now: message, acknowledged=False)
        raise self._await_successor(f"restore failed ({file})")

    def shard_written(
        self, step: int, files: Sequence[ShardFile], *, save_stall_s: float, step_reached_at: float
    ) -> None:
        """Report this rank's part of the checkpoint of `step`; an empty list when it owns nothing. Any thread.

        Dropped when the generation is over. `step_reached_at` is on the monotonic clock.
        """
        if self.over:
            return
        message = agent_pb2.ShardWritten(
            job_uid=self.assignment.job_uid,
            generation=self.number,
            step=step,
            rank=self.rank,
            folder=str(self.step_folder(step)),
            files=[types_pb2.ShardFile(path=file.path, bytes=file.bytes, sha256=file.sha256) for file in files],
            save_stall_s=save_stall_s,
        )

        def build(now: float) -> local_pb2.LocalRequest:
            message.step_age_ms = age_ms(step_reached_at, now)
            return local_pb2.LocalRequest(shard=message)

        self._reporter.send(("shard", self.number, step), build, acknowledged=True)

    def save_due(self, step: int, *, busy: bool = False) -> bool:
        """Whether every rank saves now, after `step`: a regular save, or one that was asked for before a planned stop.

        Called by all ranks after every step, on the thread of the collectives, after `join`; now and then it is one itself (eight
        bytes a number). `busy`: this rank still writes an earlier save; then all put theirs off until nobody does. Raises
        GenerationChanged.
        """
        if self._saves is None:
            self._saves = SaveSchedule(
                self.number, self.checkpoint_every_steps, self._control.save_order, self._largest, self._save_late
            )
        return self._saves.due(step, busy=busy)

    def save_failed(self, step: int, reason: str) -> None:
        """Report that this rank could not write its part of the checkpoint of `step`. Any thread; training goes on."""
        note(f"checkpoint of step {step} not written: {reason}")
        self._tell_save(step, agent_pb2.SAVE_WORD_FAILED, reason)

    def save_unable(self, reason: str) -> None:
        """Report that this rank cannot save now as it was asked to. Any thread."""
        self._tell_save(0, agent_pb2.SAVE_WORD_UNABLE, reason)

    def _save_late(self, step: int) -> None:
        reason = "the save before is still being written: this one follows as soon as it is done"
        note(f"checkpoint of step {step} waits: {reason}")
        self._tell_save(step, agent_pb2.SAVE_WORD_SLOW, reason)

    def _tell_save(self, step: int, word: agent_pb2.SaveWord.ValueType, reason: str) -> None:
        if self.over:
            return
        finding = agent_pb2.SaveFinding(
            job_uid=self.assignment.job_uid, generation=self.number, step=step, rank=self.rank, word=word,
            reason=reason[:SAVE_REASON_LIMIT],
        )  # fmt: skip
        message = local_pb2.LocalRequest(save_finding=finding)
        self._reporter.send(("save", self.number, word), lambda _now: message, acknowledged=False)

    def _largest(self, numbers: list[int]) -> list[int]:
        import torch  # noqa: PLC0415  torch is imported only by who joins

        world = self._groups.get("world")
        if world is None:
            raise RuntimeError("save_due needs the groups of this generation: call join() first")
        row = torch.tensor(numbers, dtype=torch.int64)
        world.all_reduce(row, op="max")
        return [int(number) for number in row]

    def step_folder(self, step: int) -> Path:
        """Folder of the checkpoint of `step` in this generation."""
        return self.checkpoint_folder / f"step-{step}"

    def peer_lost(self, group: str, error: RuntimeError) -> Exception:
        """A collective of `group` failed; wait for the next generation and return what to raise."""
        if self._control.newest_generation <= self.number:
            note(f"generation {self.number}: lost a peer in group {group}: {_short(error)}")
        return self._await_successor(f"a collective of group {group} failed")

    def mark_broken(self) -> None:
        """A collective failed somewhere that cannot wait (a library's future). Any thread."""
        if self._broken_since is None:
            self._broken_since = time.monotonic()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` as soon as the generation ends, from whichever thread notices. Must not block."""
        self._on_end.append(callback)
        if self.over:
            callback()

    def next_assignment(self) -> Assignment:
        """Block until the successor is there. Bounded when a peer was lost: SystemExit(75) with the reason."""
        if self._broken_since is None:
            while True:
                assignment = self._control.wait_newer(self.number, None)
                if assignment is not None:
                    return assignment
        self._pause()
        left = self._broken_since + self._patience_s - time.monotonic()
        assignment = self._control.wait_newer(self.number, max(0.0, left))
        if assignment is None:
            raise self._given_up("lost a peer")
        return assignment

    def drop(self) -> None:
        """Free the groups' threads, sockets and memory. What is still in flight ends with an error."""
        self._control.on_change(None)
        self._interrupt()
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        waiting = [*self._groups.values(), *_lingering]
        self._groups.clear()
        _lingering.clear()
        while waiting:
            for group in [group for group in waiting if group.settled()]:
                group.release()
                waiting.remove(group)
            if not waiting or time.monotonic() > deadline:
                break
            time.sleep(0.001)
        _lingering.extend(waiting)

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        after_end = isinstance(error, Exception) and self.over and not isinstance(error, ReplicaDivergence)
        consequence = isinstance(error, GenerationChanged) or after_end
        if consequence and not isinstance(error, GenerationChanged):
            note(f"generation {self.number}: ended by {type(error).__name__}, after its end: {str(error)[:200]}")
        self.drop()
        return consequence

    def _members(self) -> Mapping[str, tuple[int, ...]]:
        """Distinct groups to build, by name, and the first dimension that uses each."""
        chosen: dict[tuple[int, ...], str] = {}
        for name, ranks in self._dimensions().items():
            chosen.setdefault(ranks, name)
        return {name: ranks for ranks, name in chosen.items()}

    def _dimensions(self) -> Mapping[str, tuple[int, ...]]:
        degrees, rank, absent = self.degrees, self.rank, self.assignment.absent
        members = {
            "world": self.participants,
            "data_parallel": degrees.data_parallel_ranks(rank),
            "expert_parallel": degrees.expert_parallel_ranks(rank),
            "expert_data_parallel": degrees.expert_data_parallel_ranks(rank),
        }
        return {name: tuple(member for member in ranks if member not in absent) for name, ranks in members.items()}

    def _adopt(self, joiner: Joiner, members: Mapping[str, tuple[int, ...]]) -> None:
        from agents.rank.group import Group  # noqa: PLC0415  torch is imported only by who joins

        built, joiner.built = joiner.built, None
        if built is None:
            text = _short(joiner.error)
            if not self.over:
                note(f"generation {self.number}: building the process groups failed: {text}")
            raise self._await_successor(f"building the process groups failed: {text}")
        self._endpoints = built.endpoints
        flight.page().begin(self.number)
        for name, ranks in members.items():
            self._groups[name] = Group(
                name, cast("Collectives", built.backends[name]), ranks, self.rank, self, clock=self.clock
            )
        self.check()

    def _interrupt(self) -> None:
        if self._endpoints:
            shut_down_connections(self._endpoints)
        for callback in tuple(self._on_end):
            callback()

    @property
    def _patience_s(self) -> float:
        return PEER_LOSS_PATIENCE * self.assignment.join_timeout_s

    def _pause(self) -> None:
        """Say PAUSED, and have all peers notice: this rank cannot go on in its generation, and so nobody can.

        Otherwise only those that spoke with the lost rank itself notice, and the others wait in their collectives until they are
        told; where a generation starts is decided when all have said what they hold.
        """
        facts = self._reporter.facts()
        if facts.generation == self.number and self._control.newest_generation == self.number:
            self._reporter.report(replace(facts, state=types_pb2.RANK_STATE_PAUSED))
        if self._endpoints:
            shut_down_connections(self._endpoints)

    def _given_up(self, what: str) -> SystemExit:
        note(
            f"generation {self.number} {what} and no new generation came within {self._patience_s:.0f} s "
            f"({PEER_LOSS_PATIENCE} join time-outs): leaving with code {EXIT_PEER_LOST}"
        )
        return SystemExit(EXIT_PEER_LOST)

    def _await_successor(self, reason: str) -> Exception:
        self.mark_broken()
        self.next_assignment()
        return GenerationChanged(f"generation {self.number} is over: {reason}")


def _short(error: Exception | None) -> str:
    """The fact in a backend's message, without the source position before it and the advice after it."""
    line = str(error).partition("\n")[0].partition(". This is typically")[0]
    return re.sub(r"^\[[^\]]*\] ", "", line)[:300]
