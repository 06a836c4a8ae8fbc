"""Replicas must hold the same bits: compared every k steps, and when they do not, who is wrong is found by doing the steps again.

A digest of what an update reads (state that replicas hold alike, and their reduced gradients) is taken in every step; every k
steps replicas exchange these few bytes. On a disagreement all ranks load the state that they last agreed on and make the
steps since then once more: training is deterministic, so that a rank whose first result the replay does not confirm was
wrong, and one that differs again is broken. Only ranks that are wrong leave; the others hold the right state again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from agents.rank.checks.compare import Culprits, Disagreement, StateMark, culprits, disagreement, pack, unpack
from agents.rank.checks.digest import digest
from agents.rank.errors import ReplicaDivergence

MOST_STEPS = 1_000
"""Between two exchanges: 40 bytes of a step are kept."""


class Exchange(Protocol):
    """The part of `agents.rank.Group` that checks use; every call is made by all members."""

    ranks: tuple[int, ...]
    rank: int

    @property
    def size(self) -> int:
        """Number of members."""

    def all_reduce(self, tensor: Tensor, *, op: str = "sum") -> object:
        """Reduce in place over all members."""

    def all_gather_bytes(self, data: bytes) -> list[bytes]:
        """The members' byte strings in member order."""


@dataclass(frozen=True, slots=True)
class ReplicaSet:
    """State that the members of a group hold alike.

    `state`: all tensors that outlive a step, step counter included; `gradients`: what the update reads beside them, after
    the reduction. Contiguous, always the same objects.
    """

    name: str
    group: Exchange
    state: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]

    def mark(self, step: int) -> StateMark:
        """What this rank holds now."""
        return StateMark(step, digest(self.state), digest(self.gradients))


class ReplicaCheck:
    """One rank's part of the comparison; every rank of the generation has one, with the same settings.

    Use: `start(step)` once state is loaded; in every step `before_update(step)` between the reduction and the update, and
    `after_step(step)` after it. Before a save call `after_step(step, now=True)`, so that no state is saved that was not
    compared. Memory: one more copy of the state.
    """

    def __init__(
        self,
        world: Exchange,
        sets: Sequence[ReplicaSet],
        *,
        every: int,
        again: Callable[[], object],
        every_step: bool = True,
    ) -> None:
        """Args:
        world: all ranks of the generation.
        sets: of this rank, in the same order on all ranks.
        every: steps between two exchanges.
        again: makes one training step from the tensors as they are; deterministic, collectives included.
        every_step: take digests in every step. False: only when they are exchanged (cheaper by `every`); a difference
            that has vanished by then, or spread, is not found, or not blamed on the right rank of two.
        """
        if not 1 <= every <= MOST_STEPS:
            raise ValueError(f"every={every} steps between two checks must be 1 to {MOST_STEPS}")
        self._world = world
        self._sets = tuple(sets)
        self._every = every
        self._again = again
        self._every_step = every_step
        self._marks: list[list[StateMark]] = [[] for _ in self._sets]
        self._kept: list[list[Tensor]] = []
        self._start: list[bytes] = []
        self._tables: list[list[tuple[StateMark, ...]]] = []
        self._agreed_step = 0
        self._replaying = False

    @property
    def replaying(self) -> bool:
        """Whether steps are being done again just now."""
        return self._replaying

    @property
    def agreed_step(self) -> int:
        """The newest step after which all replicas were found alike."""
        return self._agreed_step

    def start(self, step: int) -> None:
        """State of `step` is loaded: compare it, and keep it. Raises ReplicaDivergence, never a persistent one: nothing was done
        twice."""
        self._marks = [[StateMark(step, digest(one.state))] for one in self._sets]
        found = self._compare()
        if self._worst(found):
            for one, first in zip(self._sets, found, strict=True):
                if first is not None and (not first.odd or one.group.rank in first.odd):
                    raise self._error(one, first, Culprits(first.odd, persistent=False, decided=bool(first.odd)), step)
        self._agree(step)

    def before_update(self, step: int) -> None:
        """Gradients are reduced, the update that makes `step` comes next."""
        if self._every_step:
            for marks, one in zip(self._marks, self._sets, strict=True):
                marks.append(one.mark(step))

    def after_step(self, step: int, *, now: bool = False) -> None:
        """`step` is made. Exchanges when it is time, or `now`.

        Raises ReplicaDivergence on the ranks that are wrong; on the others the tensors then hold the right state, and they go
        on until the loss of their peer ends the generation.
        """
        if self._replaying or not (now or step % self._every == 0):
            return
        self._mark_end(step)
        found = self._compare()
        place = self._first(found)
        if place:
            self._investigate(step, [f if f and f.place == place else None for f in found])
        self._agree(step)

    def _mark_end(self, step: int) -> None:
        for marks, one in zip(self._marks, self._sets, strict=True):
            marks.append(StateMark(step, digest(one.state)))

    def _compare(self) -> list[Disagreement | None]:
        self._tables = [
            [unpack(data) for data in one.group.all_gather_bytes(pack(marks))]
            for one, marks in zip(self._sets, self._marks, strict=True)
        ]
        return [disagreement(table) for table in self._tables]

    def _worst(self, found: Sequence[object]) -> bool:
        """Whether any rank of the generation has found something."""
        flag = torch.tensor([int(any(f is not None for f in found))], dtype=torch.int64)
        self._world.all_reduce(flag, op="max")
        return bool(flag.item())

    def _first(self, found: Sequence[Disagreement | None]) -> int:
        """Place of the first disagreement in the whole generation, 0: none. What comes later may only follow from it."""
        none = 1 << 40
        flag = torch.tensor([min((f.place for f in found if f), default=none)], dtype=torch.int64)
        self._world.all_reduce(flag, op="min")
        return 0 if flag.item() == none else int(flag.item())

    def _investigate(self, step: int, first: list[Disagreement | None]) -> None:
        """Do the interval again, all ranks together, and raise where this rank was wrong."""
        self._replay(step)
        again = self._compare()
        wrong: ReplicaDivergence | None = None
        for index, (one, before) in enumerate(zip(self._sets, first, strict=True)):
            if before is None and again[index] is None:
                continue
            after = again[index]
            told = before or after
            assert told is not None
            who = culprits(told, after, self._tables[index], self._start[index])
            if one.group.rank in who.members:
                wrong = wrong or self._error(one, told, who, step)
        self._worst([wrong])  # nobody leaves before all have seen who it is
        if wrong is not None:
            raise wrong

    def _replay(self, step: int) -> None:
        self._replaying = True
        try:
            for one, kept in zip(self._sets, self._kept, strict=True):
                for tensor, copy in zip(one.state, kept, strict=True):
                    tensor.detach().copy_(copy)
            self._marks = [[] for _ in self._sets]
            for _ in range(step - self._agreed_step):
                self._again()
            self._mark_end(step)
        finally:
            self._replaying = False

    def _agree(self, step: int) -> None:
        self._agreed_step = step
        self._start = [marks[-1].state for marks in self._marks]
        self._marks = [[] for _ in self._sets]
        if not self._kept:
            self._kept = [[tensor.detach().clone() for tensor in one.state] for one in self._sets]
            return
        for one, kept in zip(self._sets, self._kept, strict=True):
            for tensor, copy in zip(one.state, kept, strict=True):
                copy.copy_(tensor.detach())

    def _error(self, one: ReplicaSet, first: Disagreement, who: Culprits, step: int) -> ReplicaDivergence:
        ranks = [one.group.ranks[member] for member in who.members]
        digests = ", ".join(
            f"rank {rank} {digest.hex()[:12]}" for rank, digest in zip(one.group.ranks, first.digests, strict=False)
        )
        again = "again when the steps were done again" if who.persistent else "not again when the steps were done again"
        which = (
            f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))} differ{'s' * (len(ranks) == 1)} from the others"
            if who.decided
            else f"one of ranks {', '.join(map(str, ranks or one.group.ranks))} is wrong, and nobody can say which"
        )
        return ReplicaDivergence(
            f"step {first.step}: replicas of {one.name} hold different {first.what}, {again}: {which} "
            f"(checked after step {step}, last alike after step {self._agreed_step}; {digests})",
            persistent=who.persistent,
        )
