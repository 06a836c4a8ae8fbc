"""What nodes hold of jobs' states beside shared storage, as they tell it: soft, of one generation, never journalled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from controlplane.core.columns import BoolColumn, ByteColumn, IntColumn, LongColumn
from controlplane.core.recovery.restore_point import NO_STEP, Copies, Tier

NOBODY = -1
SURVIVOR, MEMORY, MEMORY_UNIQUE, DISK = 1, 2, 3, 4
"""Kinds of rows: see HeldKind in agent.proto."""
REPLICATED = 0x10
"""Added to a kind: replicas hold all of this state."""
KIND = 0x0F
"""The kind itself."""
MOST_STATES = 12
"""States of one rank that are looked at: its own, and two each on its node, of a copy, on a disk and of a dead process."""
MOST_JOBS = 1_024
_TIERS = np.array([Tier.MEMORY, Tier.SURVIVOR, Tier.MEMORY, Tier.MEMORY, Tier.LOCAL_DISK], dtype=np.uint8)
"""By kind of row; there is no kind 0."""


@dataclass(frozen=True, slots=True)
class HeldRows:
    """Rows of one node, columns of equal length."""

    ranks: IntColumn
    steps: LongColumn
    kinds: ByteColumn


@dataclass(slots=True)
class _Book:
    """Rows of a job by node.

    `told_ns`: when, for rows of ranks that may have moved on since; a node that is not in it has told of ranks that stopped.
    `moves`: its ranks may have made steps in this generation. `distrusted`: a restore from rows has failed, in this generation
    or the one before.
    """

    ranks: int
    generation: int
    rows: dict[int, HeldRows] = field(default_factory=dict)
    told_ns: dict[int, int] = field(default_factory=dict)
    moves: bool = True
    former: dict[int, HeldRows] = field(default_factory=dict)
    distrusted: int = 0


class HeldStates:
    """Safe to use from the edge's threads and the brain's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._books: dict[str, _Book] = {}
        self._addresses: dict[int, str] = {}

    def place(self, node: int, address: str) -> None:
        """Where the agent of a node takes and lends states; "" when it does not."""
        self._addresses[node] = address

    def address(self, node: int) -> str:
        """See `place`; "" when it is not known."""
        return self._addresses.get(node, "")

    def tell(
        self, uid: str, ranks: int, generation: int, node: int, rows: HeldRows, *, stopped: bool = True, now_ns: int = 0
    ) -> None:
        """A node says all that it holds of a job of so many ranks, in a generation. Not `stopped`: its ranks stand still as far as
        it saw, and may go on. What lies on a disk stays what it is."""
        with self._lock:
            book = self._books.get(uid)
            if book is None:
                if len(self._books) >= MOST_JOBS:
                    return
                book = self._books[uid] = _Book(ranks, generation)
            if generation >= book.generation:
                book.generation = generation
                known = node in book.rows and node not in book.told_ns
                book.rows[node] = rows
                if stopped or known or bool((rows.kinds & KIND == DISK).all()):
                    book.told_ns.pop(node, None)
                else:
                    book.told_ns[node] = now_ns

    def leave(self, node: int) -> None:
        """A node begins anew: what it held is not there any more until it says so."""
        with self._lock:
            for book in self._books.values():
                book.rows.pop(node, None)
                book.told_ns.pop(node, None)

    def moves(self, uid: str, generation: int) -> None:
        """All ranks of a generation have their state, and make steps from now on."""
        with self._lock:
            book = self._books.get(uid)
            if book is not None and book.generation == generation:
                book.moves = True

    def rewind(self, uid: str, generation: int) -> None:
        """A generation begins: what was told before is what it starts from, and says nothing of the next one."""
        with self._lock:
            book = self._books.get(uid)
            if book is not None:
                book.former, book.rows, book.generation = book.rows, {}, generation
                book.told_ns, book.moves = {}, False
                book.distrusted = max(0, book.distrusted - 1)

    def distrust(self, uid: str) -> None:
        """A generation could not start from what was told: the next one starts from elsewhere."""
        with self._lock:
            book = self._books.get(uid)
            if book is not None:
                book.distrusted = 2

    def forget(self, uid: str) -> None:
        """The job has ended."""
        with self._lock:
            self._books.pop(uid, None)

    def copies(
        self, uid: str, steps: Callable[[], Mapping[int, int]] = dict, heard_ns: Callable[[int], int] = lambda _node: 0
    ) -> Copies:
        """Rows as the core wants them.

        What a node said while its ranks were running counts as told only when a later beat of it has shown that they had not
        gone on.

        Args:
            uid: of the job.
            steps: newest step of each rank, as beats say.
            heard_ns: when a node's last beat came.
        """
        with self._lock:
            book = self._books.get(uid)
            if book is None or book.distrusted >= 2:
                return Copies.none()
            rows, ranks = dict(book.rows), book.ranks
            unsure = dict(book.told_ns) if book.moves else {}
        newest = steps() if unsure else {}
        gone_on = [
            node for node, told_ns in unsure.items() if heard_ns(node) <= told_ns or _went_on(rows[node], newest)
        ]
        return _columns(ranks, rows, gone_on)

    def sources(self, uid: str, generation: int, step: int) -> tuple[IntColumn, IntColumn]:
        """(rank, node) of states after a step that lie with a node, as told before a generation began; whole ones first."""
        with self._lock:
            book = self._books.get(uid)
            told = {} if book is None else dict(book.former if book.generation >= generation else book.rows)
        found = [
            (rows.ranks[mask], np.full(int(np.count_nonzero(mask)), node, dtype=np.int32), rows.kinds[mask] & KIND)
            for node, rows in told.items()
            if (mask := (rows.steps == step) & ((rows.kinds & KIND) != SURVIVOR)).any()
        ]
        if not found:
            return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32)
        ranks, nodes, kinds = (np.concatenate([columns[at] for columns in found]) for at in range(3))
        whole_first = np.argsort(kinds, kind="stable")
        return ranks[whole_first], nodes[whole_first]


def _went_on(rows: HeldRows, steps: Mapping[int, int]) -> bool:
    """Whether a rank of which a node's rows speak is known to be further."""
    newest: dict[int, int] = {}
    for rank, step in zip(rows.ranks.tolist(), rows.steps.tolist(), strict=True):
        newest[rank] = max(step, newest.get(rank, 0))
    return any(steps.get(rank, 0) > step for rank, step in newest.items())


def _columns(ranks: int, told: dict[int, HeldRows], unsure: Collection[int]) -> Copies:
    nodes = np.array(sorted(told), dtype=np.int64)
    sure = np.array(sorted(told.keys() - set(unsure)), dtype=np.int64)
    if not len(nodes):
        none = Copies.none()
        return Copies(none.step, none.owner, none.tier, none.intact, told=nodes)
    rank = np.concatenate([told[node].ranks for node in nodes.tolist()])
    step = np.concatenate([told[node].steps for node in nodes.tolist()])
    kind = np.concatenate([told[node].kinds for node in nodes.tolist()])
    owner = np.repeat(nodes, [len(told[node].ranks) for node in nodes.tolist()])
    order = np.argsort(rank, kind="stable")
    rank, step, kind, owner = rank[order], step[order], kind[order], owner[order]
    place = np.arange(len(rank)) - np.searchsorted(rank, rank, side="left")
    fits = (place < MOST_STATES) & (rank < ranks)
    rank, step, kind, owner, place = rank[fits], step[fits], kind[fits], owner[fits], place[fits]
    width = int(place.max(initial=0)) + 1
    steps = np.full((ranks, width), NO_STEP, dtype=np.int64)
    owners = np.full((ranks, width), NOBODY, dtype=np.int32)
    tiers = np.full((ranks, width), int(Tier.MEMORY), dtype=np.uint8)
    partial: BoolColumn = np.zeros((ranks, width), dtype=np.bool_)
    plain = kind & KIND
    steps[rank, place], owners[rank, place] = step, owner
    tiers[rank, place] = _TIERS[plain]
    partial[rank, place] = plain == MEMORY_UNIQUE
    return Copies(
        steps, owners, tiers, steps != NO_STEP, partial=partial, replicated=bool((kind & REPLICATED).any()), told=sure
    )
