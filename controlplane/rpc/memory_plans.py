"""What each node is told of states in memory when a generation begins: who keeps its copies, whose it keeps, what it fetches."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from phalanx.v1 import agent_pb2

from controlplane.core.jobs import NONE, Job
from controlplane.core.recovery.copies import NOBODY, Shared, place_copies, sites_of
from controlplane.core.state import State
from controlplane.engine.held import HeldStates


class MemoryPlans:
    """Plans of one generation, by node number, as bytes of an `ApplyGeneration`. Nodes whose agents keep no states get none."""

    def __init__(self, job: Job, state: State, held: HeldStates) -> None:
        self._plans: dict[int, agent_pb2.MemoryPlan] = defaultdict(agent_pb2.MemoryPlan)
        nodes = [int(node) for node in np.unique(job.rank_node) if node != NONE]
        if not any(held.address(node) for node in nodes):
            return
        self._add_holders(job, state, held)
        if job.restored_from:
            self._add_sources(job, state, held)

    def of(self, number: int | None) -> bytes:
        """What is added to the message of a node."""
        plan = None if number is None else self._plans.get(number)
        return b"" if plan is None else agent_pb2.ApplyGeneration(memory=plan).SerializeToString()

    def _add_holders(self, job: Job, state: State, held: HeldStates) -> None:
        fleet = state.fleet
        plan = place_copies(sites_of(job.rank_node, job.spec.parallel, fleet.domains))
        for node, holder, shared in zip(plan.node.tolist(), plan.holder.tolist(), plan.shared.tolist(), strict=True):
            if holder == NOBODY or not held.address(holder):
                continue
            told = self._plans[node]
            told.holder.CopyFrom(agent_pb2.MemoryNode(node=fleet.name(holder), address=held.address(holder)))
            told.shared_fate = Shared(shared).words if shared else ""
            self._plans[holder].keeps.append(fleet.name(node))

    def _add_sources(self, job: Job, state: State, held: HeldStates) -> None:
        """Ranks whose state is not on the node where they are now, and is on another one."""
        fleet = state.fleet
        ranks, owners = held.sources(job.uid, job.generation, job.restore_step)
        ranks, owners = ranks[fits := ranks < len(job.rank_node)], owners[fits]
        at_home = np.zeros(len(job.rank_node), dtype=np.bool_)
        at_home[ranks[job.rank_node[ranks] == owners]] = True
        asked: set[int] = set()
        for rank, owner in zip(ranks.tolist(), owners.tolist(), strict=True):
            node = int(job.rank_node[rank])
            if at_home[rank] or rank in asked or node == NONE or not held.address(owner) or not fleet.session[owner]:
                continue
            asked.add(rank)
            lender = agent_pb2.MemoryNode(node=fleet.name(owner), address=held.address(owner))
            self._plans[node].sources.add(rank=rank, owner=lender)
            if fleet.name(node) not in self._plans[owner].lends:
                self._plans[owner].lends.append(fleet.name(node))
