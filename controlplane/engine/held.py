"""What nodes hold of jobs' states beside shared storage, as they tell it: soft, of one generation, never journalled."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np

from controlplane.core.columns import BoolColumn, ByteColumn, IntColumn, LongColumn
from controlplane.core.recovery.restore_point import NO_STEP, Copies, Tier

NOBODY = -1
SURVIVOR, MEMORY, MEMORY_UNIQUE = 1, 2, 3
"""Kinds of rows: see HeldKind in agent.proto."""
REPLICATED = 0x10
"""Added to a kind: replicas hold all of this state."""
KIND = 0x0F
"""The kind itself."""
MOST_STATES = 8
"""States of one rank that are looked at: its own, two versions on its node, two of a copy, and those of a dead process."""
MOST_JOBS = 1_024


@dataclass(frozen=True, slots=True)
class HeldRows:
    """Rows of one node, columns of equal length."""

    ranks: IntColumn
    steps: LongColumn
    kinds: ByteColumn


@dataclass(slots=True)
class _Book:
    """Rows of a job by node. `distrusted`: a restore from them has failed, in this generation or the one before."""

    ranks: int
    generation: int
    rows: dict[int, HeldRows] = field(default_factory=dict)
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

    def tell(self, uid: str, ranks: int, generation: int, node: int, rows: HeldRows) -> None:
        """A node says all that it holds of a job of so many ranks, in a generation."""
        with self._lock:
            book = self._books.get(uid)
            if book is None:
                if len(self._books) >= MOST_JOBS:
                    return
                book = self._books[uid] = _Book(ranks, generation)
            if generation >= book.generation:
                book.generation = generation
                book.rows[node] = rows

    def rewind(self, uid: str, generation: int) -> None:
        """A generation begins: what was told before is what it starts from, and says nothing of the next one."""
        with self._lock:
            book = self._books.get(uid)
            if book is not None:
                book.former, book.rows, book.generation = book.rows, {}, generation
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

    def copies(self, uid: str) -> Copies:
        """Rows as the core wants them."""
        with self._lock:
            book = self._books.get(uid)
            if book is None:
                return Copies.none()
            rows = dict(book.rows) if book.distrusted < 2 else {}
            ranks = book.ranks
        made = _columns(ranks, rows)
        return made if book.distrusted < 2 else Copies.none()

    def sources(self, uid: str, generation: int, step: int) -> tuple[IntColumn, IntColumn]:
        """(rank, node) of states after a step that lie in a node's memory, as told before a generation began; whole ones first."""
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


def _columns(ranks: int, told: dict[int, HeldRows]) -> Copies:
    nodes = np.array(sorted(told), dtype=np.int64)
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
    tiers[rank, place] = np.where(plain == SURVIVOR, int(Tier.SURVIVOR), int(Tier.MEMORY))
    partial[rank, place] = plain == MEMORY_UNIQUE
    return Copies(
        steps, owners, tiers, steps != NO_STEP, partial=partial, replicated=bool((kind & REPLICATED).any()), told=nodes
    )
