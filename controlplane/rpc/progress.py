"""Steps of ranks on their way from beats into the soft columns: only those of the current generation count."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from phalanx.v1 import agent_pb2

from controlplane.core import records as r
from controlplane.core.health.standstill import Stacks
from controlplane.core.state import State
from controlplane.core.vocabulary import Phase
from controlplane.engine.held import DISK, MEMORY, MEMORY_UNIQUE, REPLICATED, SURVIVOR, HeldRows, HeldStates
from controlplane.engine.soft import UNSAID, Progress, SoftColumns, StepColumns
from controlplane.rpc.number_watch import NumberWatch

REMEMBERED_JOBS = 200
"""Ended jobs whose last progress is still shown; as many as the state keeps."""


MOST_JOBS = 256
"""Of which one message of a node may tell."""
MOST_HELD = 4_096
"""States of one job that a node may tell of."""
LARGEST_STEP = 1 << 38
_KINDS = frozenset({SURVIVOR, MEMORY, MEMORY_UNIQUE, DISK})


def rows_of(told: agent_pb2.HeldStates, ranks: int) -> HeldRows | None:
    """Rows as columns; None when they make no sense for a job of so many ranks."""
    count = len(told.ranks)
    if len(told.steps) != count or len(told.kinds) != count or count > MOST_HELD:
        return None
    if max(told.ranks, default=0) >= ranks or max(told.steps, default=0) > LARGEST_STEP:
        return None
    if any(kind & ~REPLICATED not in _KINDS for kind in set(told.kinds)):
        return None
    return HeldRows(
        np.array(told.ranks, dtype=np.int32), np.array(told.steps, dtype=np.int64),
        np.frombuffer(told.kinds, dtype=np.uint8),
    )  # fmt: skip


class ProgressGate:
    """Keeps steps of a generation that was left out of the columns, however the edge and the brain interleave.

    The check against the published state and the write are one critical section, and so is the rewind that follows a
    publication: a step of the old generation is either refused or cleared by the rewind.
    """

    def __init__(self, columns: SoftColumns) -> None:
        self._columns = columns
        self._lock = threading.Lock()
        self._ended: OrderedDict[str, Progress] = OrderedDict()
        self.numbers = NumberWatch()

    def beat(self, node: int, now_ns: int, waited_ns: int = UNSAID) -> None:
        """A node's lease is renewed by a beat that waited so long to be read, ns."""
        self._columns.beat(node, now_ns, waited_ns)

    def beats(self, nodes: np.ndarray, at_ns: np.ndarray, waited_ns: int = UNSAID) -> None:
        """Leases of many nodes are renewed. Numbers of nodes, when each was heard, Unix ns, and how long their beats waited, ns."""
        self._columns.beats(nodes, at_ns, waited_ns)

    def waits_ns(self) -> int:
        """How long the beats that were read last had waited, ns."""
        return self._columns.waits_ns

    def last_beat_ns(self, size: int) -> Sequence[int]:
        """Last beat of each node by number; 0: none yet."""
        beats: list[int] = self._columns.last_beat_ns(size).tolist()
        return beats

    def steps(self, state: Callable[[], State], job: str, generation: int, rows: StepColumns) -> int:
        """Ranks of one generation finished steps. Returns how many rows were refused and not kept: all when they are not of the
        job's current generation, and those of ranks of other nodes."""
        with self._lock:
            known = state().jobs.get(job)
            if known is None or known.terminal or known.generation != generation:
                return len(rows.ranks)
            fits = (rows.ranks < known.spec.ranks) & (rows.steps > 0)
            fits &= known.rank_node[np.where(fits, rows.ranks, 0)] == rows.nodes
            taken = rows.taken(fits)
            self._columns.steps(job, taken)
            self.numbers.take(job, generation, taken)
            return len(rows.ranks) - int(np.count_nonzero(fits))

    @property
    def memory(self) -> HeldStates:
        """What nodes hold in memory."""
        return self._columns.held

    def held(
        self, state: Callable[[], State], node: int, told: agent_pb2.HeldStates, *, stopped: bool, now_ns: int
    ) -> bool:
        """A node says what it holds of a job, `stopped`: of which ranks there have stopped. False: it is not of the current
        generation, or makes no sense, and is not kept."""
        with self._lock:
            job = state().jobs.get(told.job_uid)
            if job is None or job.terminal or job.generation != told.generation:
                return False
            if told.born_ns not in {0, job.submitted_ns}:
                return False
            rows = rows_of(told, job.spec.ranks)
            if rows is None or not (job.rank_node == node).any():
                return False
            self._columns.held.tell(job.uid, job.spec.ranks, job.generation, node, rows, stopped=stopped, now_ns=now_ns)
            return True

    def returned(self, state: Callable[[], State], hello: agent_pb2.AgentHello, now_ns: int) -> None:
        """A node says hello, and what it holds: that replaces what it said before, and is known before its return is judged. A job
        may have waited for what is on its disk. Of jobs that have gone on without it nothing is taken."""
        fleet = state().fleet
        number = fleet.number(hello.node)
        if number is None or hello.boot_id < fleet.facts[number].boot_id:
            return
        self._columns.held.leave(number)
        for states in hello.snapshot.held[:MOST_JOBS]:
            self.held(state, number, states, stopped=False, now_ns=now_ns)

    def restore_failed(self, state: Callable[[], State], node: int, told: agent_pb2.RestoreFailed) -> None:
        """A rank could not start from what nodes have said that they hold: the next generation starts from elsewhere."""
        with self._lock:
            job = state().jobs.get(told.job_uid)
            if told.checkpoint_id or job is None or job.generation != told.generation or told.rank >= job.spec.ranks:
                return
            if job.rank_node[told.rank] == node:
                self._columns.held.distrust(job.uid)

    def stand(self, effect_id: str, node: str, stacks: Stacks) -> None:
        """A node says where the ranks stand that it was asked for by an effect."""
        self._columns.stand(effect_id, node, stacks)

    def committed(self, records: Sequence[r.Record]) -> None:
        """A turn was published: generations rewind, ended jobs are forgotten. Called in the brain's thread."""
        for record in records:
            if isinstance(record, r.GenerationStarted):
                with self._lock:
                    self._columns.rewind(record.job, record.restore_step)
                    self._columns.held.rewind(record.job, record.generation)
                    self.numbers.rewind(record.job, record.restore_step)
            elif isinstance(record, r.GenerationReached) and record.phase is Phase.RESTORE:
                self._columns.held.moves(record.job, record.generation)
            elif isinstance(record, r.JobEnded):
                with self._lock:
                    self._ended[record.job] = self._columns.view(record.job)
                    self._columns.forget(record.job)
                    self._columns.held.forget(record.job)
                    self.numbers.forget(record.job)
                    while len(self._ended) > REMEMBERED_JOBS:
                        self._ended.popitem(last=False)

    def view(self, job: str) -> Progress:
        """A copy of a job's progress; of an ended job the last one."""
        with self._lock:
            return self._ended.get(job) or self._columns.view(job)
