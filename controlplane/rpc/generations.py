"""Generations as messages, one per node: what all nodes are told alike is built once, what a node's ranks need is cut out of it.

A rank finds the others through the rendezvous store, so that it needs no row of the table but its own. A node therefore gets
the rows of its own ranks, and a generation of 50,000 ranks is some hundred bytes to each of 6,250 nodes. Most of them keep their
ranks and processes from one generation to the next: those bytes are kept, too. Agents that do not say `own_rows` in their hello
(before 0.3), or ask for more, get whole tables and patches.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from phalanx.v1 import agent_pb2

from controlplane.core.effects import Effect
from controlplane.core.jobs import NONE, Job, host_id
from controlplane.core.ranges import runs
from controlplane.core.state import State
from controlplane.engine.held import HeldStates
from controlplane.rpc.codec import parallel_message, restore_message
from controlplane.rpc.memory_plans import MemoryPlans

KEPT = 16
"""Prepared generations: as many jobs as start at the same time."""

KEPT_PARTS = 65_536
"""Nodes whose part of a generation is kept, some hundred bytes each: those of the largest site, for several jobs."""


@dataclass(frozen=True, slots=True)
class _Source:
    """What a generation's messages are made of; columns are never written in place, so identity tells."""

    columns: tuple[object, ...]
    values: tuple[object, ...]

    def same(self, other: _Source) -> bool:
        """Whether the same messages follow."""
        return self.values == other.values and all(
            mine is theirs for mine, theirs in zip(self.columns, other.columns, strict=True)
        )


@dataclass(slots=True)
class _Prepared:
    """A generation without rows, and its ranks in the order of their nodes."""

    source: _Source
    head: agent_pb2.ApplyGeneration
    own_head: bytes
    """The head for agents that need the rows of their own ranks only."""
    ranks: np.ndarray
    first: list[int]
    """By node number, and one more: where the ranks of the node begin in `ranks`."""
    memory: MemoryPlans
    tables: dict[bool, agent_pb2.ApplyGeneration]
    """With all rows (True) or with those that differ (False), once somebody needs them."""

    def ranks_on(self, number: int | None) -> np.ndarray:
        """Ranks on a node, ascending."""
        if number is None or number + 1 >= len(self.first):
            return self.ranks[:0]
        return self.ranks[self.first[number] : self.first[number + 1]]


class GenerationMessages:
    """Builds the messages of generations and keeps what the next node's message has in common with them."""

    def __init__(self, held: HeldStates | None = None) -> None:
        self._held = held or HeldStates()
        self._prepared: OrderedDict[str, _Prepared] = OrderedDict()
        self._parts: OrderedDict[tuple[str, str], tuple[tuple[object, ...], bytes]] = OrderedDict()

    def fill(
        self,
        message: agent_pb2.ApplyGeneration,
        effect: Effect,
        job: Job,
        state: State,
        node: str,
        *,
        folder: str,
        own_rows: bool,
    ) -> None:
        """What the agent of a node is told, written where it will be sent from: each copy is another 50,000 rows.

        Args:
            message: an empty one.
            effect: the announcement; its job is in the generation that it names.
            job, state: of the same moment.
            node: who is told.
            folder: where the job's checkpoints lie.
            own_rows: the agent needs the rows of its own ranks only.
        """
        prepared = self._of(effect, job, state, folder)
        here = prepared.ranks_on(state.fleet.number(node))
        if own_rows:
            plan = prepared.memory.of(state.fleet.number(node))
            message.MergeFromString(prepared.own_head + self._part(job, state, node, here) + plan)
            return
        whole = effect.full or node in effect.nodes
        if whole not in prepared.tables:
            prepared.tables[whole] = _table(prepared.head, effect, job, state, whole=whole)
        message.CopyFrom(prepared.tables[whole])
        _bind(message, job, here)

    def _part(self, job: Job, state: State, node: str, here: np.ndarray) -> bytes:
        """Rows and bindings of the ranks `here`, which are on one node, as they were sent before where nothing has changed."""
        number = state.fleet.number(node)
        address = "" if number is None else state.fleet.facts[number].address
        told = (here.tobytes(), job.rank_host[here].tobytes(), job.rank_acc[here].tobytes(), address)
        found = self._parts.get((job.uid, node))
        if found is None or found[0] != told:
            message = agent_pb2.ApplyGeneration()
            _add_rows(message, job, state, here.tolist())
            _bind(message, job, here)
            found = self._parts[job.uid, node] = told, message.SerializeToString()
        self._parts.move_to_end((job.uid, node))
        while len(self._parts) > KEPT_PARTS:
            self._parts.popitem(last=False)
        return found[1]

    def _of(self, effect: Effect, job: Job, state: State, folder: str) -> _Prepared:
        cell = state.cell()
        address = cell.store_address if cell else ""
        restore = job.checkpoints.get(job.restore_id)
        source = _Source((job.rank_node, job.rank_acc, restore), (job.generation, address, folder, job.saves_every))
        found = self._prepared.get(effect.id)
        if found is None or not found.source.same(source):
            order = np.argsort(job.rank_node, kind="stable")
            head = _head(job, address, folder)
            own_head = agent_pb2.ApplyGeneration(own_rows=True)
            own_head.MergeFrom(head)
            numbers = np.arange(int(job.rank_node.max(initial=NONE)) + 2)
            first = np.searchsorted(job.rank_node[order], numbers).tolist()
            plans = MemoryPlans(job, state, self._held)
            found = self._prepared[effect.id] = _Prepared(
                source, head, own_head.SerializeToString(), order, first, plans, {}
            )
        self._prepared.move_to_end(effect.id)
        while len(self._prepared) > KEPT:
            self._prepared.popitem(last=False)
        return found


def _head(job: Job, store_address: str, folder: str) -> agent_pb2.ApplyGeneration:
    return agent_pb2.ApplyGeneration(
        job_uid=job.uid,
        job_name=job.name,
        generation=job.generation,
        world_size=job.spec.ranks,
        parallel=parallel_message(job.spec.parallel),
        restore=restore_message(job.checkpoints.get(job.restore_id)),
        store_address=store_address,
        checkpoint_folder=f"{folder}/g{job.generation}",
        checkpoint_every_steps=job.saves_every,
        join_timeout_ms=job.spec.timeouts.join_ms,
        kept_step=job.restore_step if job.keeps_state else 0,
        absent=[rank for run in runs(np.flatnonzero(~job.present)) for rank in run],
        memory_step=job.restore_step if job.restored_from or job.keeps_state else 0,
        skip_steps=[agent_pb2.StepRange(first=skip.first, last=skip.last) for skip in job.numbers.skips],
        born_ns=job.submitted_ns,
        local_every_steps=job.spec.checkpoint.local_every_steps,
        line=[agent_pb2.LineStart(generation=number, step=step) for number, step in job.line],
    )


def _table(
    head: agent_pb2.ApplyGeneration, effect: Effect, job: Job, state: State, *, whole: bool
) -> agent_pb2.ApplyGeneration:
    message = agent_pb2.ApplyGeneration()
    message.CopyFrom(head)
    message.base_generation = 0 if whole else job.generation - 1
    ranks = range(job.spec.ranks) if whole else (int(item) for item in effect.items)
    _add_rows(message, job, state, ranks)
    return message


def _bind(message: agent_pb2.ApplyGeneration, job: Job, here: np.ndarray) -> None:
    """The processes that hold the ranks `here`."""
    devices = job.rank_acc[here].tolist()
    for rank, serial, held in zip(here.tolist(), job.rank_host[here].tolist(), devices, strict=True):
        if serial != NONE:
            message.bindings.add(rank=rank, host_id=host_id(job.uid, serial), accelerators=held)


def _add_rows(message: agent_pb2.ApplyGeneration, job: Job, state: State, ranks: Iterable[int]) -> None:
    at = list(ranks)
    facts = state.fleet.facts
    for rank, number, devices in zip(at, job.rank_node[at].tolist(), job.rank_acc[at].tolist(), strict=True):
        if number != NONE:  # else it takes no part: its replica has left
            node = facts[number]
            message.rows.add(rank=rank, node=node.name, address=node.address, accelerators=devices)
