"""A step's forward and backward computed twice, by two ranks: gradients must be equal to the bit before they are reduced.

At every k-th step each rank also computes the step of its counterpart in the next replica (the rank with the same part of the
model; itself where there is none), and the two results are compared. What one rank got wrong reaches others inside a step
(experts are called by their peers): a trace of what is sent to and received from peers tells where it began. On a
disagreement both sides compute again, and with three replicas a third one does: that tells a fault that passed (16) from one
that stays (17).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.rank.checks.digest import DIGEST_BYTES, digest
from agents.rank.checks.replica import Exchange
from agents.rank.errors import ReplicaDivergence

SENT, RECEIVED, RESULT = b"s", b"r", b"g"
MOST_ENTRIES = 4_096
"""Of one trace; what is exchanged with peers after them is covered by the result only."""

ROW = 1 + DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class Tables:
    """Traces of one disagreement, by member: of its own work, of the next member's (second time: the same again), and of the
    work two places on, where there are three members."""

    own: Sequence[bytes]
    other: Sequence[bytes]
    own_again: Sequence[bytes]
    other_again: Sequence[bytes]
    third: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A member that computed something wrong. `decided`: False when it may have been the one that it is compared with."""

    member: int
    persistent: bool
    decided: bool = True


def began(one: bytes, two: bytes) -> bytes:
    """Kind of the first entry in which two traces differ, b"": none does. RECEIVED: a peer's results differ, not this rank's."""
    if one == two:
        return b""
    for start in range(0, min(len(one), len(two)), ROW):
        if one[start : start + ROW] != two[start : start + ROW]:
            return one[start : start + 1]
    return RESULT


def here(one: bytes, two: bytes) -> bool:
    """Whether two traces differ by what the ranks that made them computed."""
    return began(one, two) not in (b"", RECEIVED)


def differing(own: Sequence[bytes], other: Sequence[bytes]) -> list[int]:
    """Members whose work came out differently where the member before them did it."""
    return [j for j in range(len(own)) if own[j] != other[j - 1]]


def suspects(tables: Tables) -> list[Suspect]:
    """Who was wrong."""
    size = len(tables.own)
    found: dict[int, Suspect] = {}
    for j in differing(tables.own, tables.other):
        before = (j - 1) % size
        if not here(tables.own[j], tables.other[before]):
            continue
        changed = {
            member
            for member, one, two in (
                (j, tables.own[j], tables.own_again[j]),
                (before, tables.other[before], tables.other_again[before]),
            )
            if here(one, two)
        }
        if changed and size > 1:
            for member in changed:
                found.setdefault(member, Suspect(member, persistent=False))
        elif size == 1:
            runs = {tables.own[0], tables.other[0], tables.own_again[0], tables.other_again[0]}
            found.setdefault(0, Suspect(0, persistent=len(runs) > 2))  # two values: one run of four was wrong
        else:
            for one in _lasting(tables, j, before):
                found[one.member] = one
    return [found[member] for member in sorted(found)]


def _lasting(tables: Tables, j: int, before: int) -> list[Suspect]:
    """Both sides stand by their result: a third rank decides, where there is one."""
    size = len(tables.own)
    if size > 2:
        third = tables.third[(j - 2) % size]
        if third == tables.own[j]:
            return [Suspect(before, persistent=True)]
        if third == tables.other[before]:
            return [Suspect(j, persistent=True)]
    return [Suspect(member, persistent=True, decided=False) for member in (before, j)]


class StepReplay:
    """One rank's part. `compute` takes the place of forward and backward in the training step.

    `witness` is called by the workload with everything that a rank sends to and receives from peers inside forward and
    backward: `witness(sent=tensor)` before, `witness(received=tensor)` after. It costs nothing in other steps.
    """

    def __init__(
        self,
        world: Exchange,
        counterparts: Exchange,
        *,
        every: int,
        work: Callable[[int], None],
        results: Sequence[Tensor],
        offset: int = 0,
        compare_state: Callable[[], None] | None = None,
    ) -> None:
        """Args:
        world: all ranks of the generation.
        counterparts: ranks with the same part of the model, in the same order as their batches.
        every: one step in so many is computed twice.
        work: forward and backward of the coming step, for the member so many places on (0: this rank's own share),
            into `results`; deterministic, and free of lasting effects on anything else.
        results: gradients and what is reduced with them.
        offset: which steps are chosen: those that leave it when divided by `every`.
        compare_state: called by all ranks when results are not alike; raises on a rank that holds other weights than its
            replicas (`ReplicaCheck.after_step(now=True)`): then it is not the computation that was wrong.
        """
        if every < 1:
            raise ValueError(f"every={every}: one step in 1 or more is computed twice")
        self._world = world
        self._group = counterparts
        self._every = every
        self._work = work
        self._results = tuple(results)
        self._offset = offset % every
        self._compare_state = compare_state
        self._trace: bytearray | None = None

    @staticmethod
    def every(rate: float) -> int:
        """Steps between two that are computed twice, for a share of all steps. Raises ValueError outside of (0, 1]."""
        if not 0 < rate <= 1:
            raise ValueError(f"a share of {rate} steps cannot be computed twice: it must be above 0 and at most 1")
        return round(1 / rate)

    def due(self, step: int) -> bool:
        """Whether the step is computed twice."""
        return step % self._every == self._offset

    def witness(self, *, sent: Tensor | None = None, received: Tensor | None = None) -> None:
        """Note what peers are given, or give, inside a step."""
        if self._trace is None or len(self._trace) >= MOST_ENTRIES * ROW:
            return
        for kind, tensor in ((SENT, sent), (RECEIVED, received)):
            if tensor is not None:
                self._trace += kind + digest((tensor,))

    def compute(self, step: int) -> None:
        """Forward and backward of the step, which comes to be `step`. Raises ReplicaDivergence on a rank that is wrong."""
        if not self.due(step):
            self._work(0)
            return
        own = self._run(0)
        kept = [tensor.detach().clone() for tensor in self._results]
        other = self._run(1)
        owns, others = self._exchange(own, other)
        if self._anywhere(owns != [others[j - 1] for j in range(len(owns))]):
            self._name(step, owns, others)
        for tensor, copy in zip(self._results, kept, strict=True):
            tensor.detach().copy_(copy)

    def _name(self, step: int, owns: list[bytes], others: list[bytes]) -> None:
        if self._compare_state is not None:
            self._compare_state()
        own_again, other_again = self._exchange(self._run(0), self._run(1))
        third = self._group.all_gather_bytes(self._run(2) if self._group.size > 2 else b"")
        me = self._group.rank
        wrong = suspects(Tables(owns, others, own_again, other_again, third))
        if not self._anywhere(bool(wrong)):  # what was received differs, and nobody sent it so
            members = differing(owns, others)
            wrong = [Suspect(member, persistent=False, decided=False) for member in members]
        self._group.all_gather_bytes(b"")  # nobody leaves before all have seen who it is
        mine = next((one for one in wrong if one.member == me), None)
        if mine is not None:
            raise self._error(step, mine)

    def _run(self, shift: int) -> bytes:
        self._trace = bytearray()
        try:
            self._work(shift)
            return bytes(self._trace) + RESULT + digest(self._results)
        finally:
            self._trace = None

    def _exchange(self, own: bytes, other: bytes) -> tuple[list[bytes], list[bytes]]:
        tables = self._group.all_gather_bytes(len(own).to_bytes(4, "big") + own + other)
        cuts = [4 + int.from_bytes(table[:4], "big") for table in tables]
        return (
            [table[4:cut] for table, cut in zip(tables, cuts, strict=True)],
            [table[cut:] for table, cut in zip(tables, cuts, strict=True)],
        )

    def _anywhere(self, here: bool) -> bool:
        flag = torch.tensor([int(here)], dtype=torch.int64)
        self._world.all_reduce(flag, op="max")
        return bool(flag.item())

    def _error(self, step: int, mine: Suspect) -> ReplicaDivergence:
        ranks = self._group.ranks
        rank = ranks[self._group.rank]
        again = "and does so again" if mine.persistent else "and did not when it was computed again"
        who = (
            f"rank {rank} computed something else than its counterpart"
            if mine.decided
            else f"rank {rank} or its counterpart is wrong, nobody can say which"
        )
        return ReplicaDivergence(
            f"step {step}: gradients computed twice are not alike: {who}, {again} "
            f"(replicas {', '.join(map(str, ranks[:16]))}; nothing of this step was applied)",
            persistent=mine.persistent,
        )
