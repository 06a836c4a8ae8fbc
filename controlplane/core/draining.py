"""Drains: what runs on a node that an operator wants empty moves elsewhere, in one generation per job, when there is room.

A running job goes on where it is until processes are parked at its new places and it has saved: the drain costs it one
generation, not a start. Without room it stays and says what it waits for; it is never stopped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.effects import EffectKind
from controlplane.core.fleet import Fleet
from controlplane.core.jobs import NONE, Job, host_id
from controlplane.core.observing.losses import lose_ranks, planned_loss
from controlplane.core.orders import fence
from controlplane.core.parting import outcome, save_first
from controlplane.core.placement.gang import Blocked, replace_ranks
from controlplane.core.vocabulary import JobState, NodeLiveness, NodeService, RankState

EMPTY = (NodeService.DRAINING, NodeService.OUT_OF_SERVICE, NodeService.QUARANTINED, NodeService.VALIDATING)
"""Service states in which no process of a job is wanted on a node."""

_EMPTIED = np.isin(np.arange(256), EMPTY)
"""The same as a mask over states."""


def leaving(fleet: Fleet, job: Job) -> tuple[int, ...]:
    """Ranks of a job that stand on nodes which are draining or in quarantine."""
    out = fleet.emptying()
    if not job.placed or not out.any():
        return ()
    return tuple(np.flatnonzero(job.present & out[job.rank_node]).tolist())


def clear(draft: Draft, job: Job) -> None:
    """Have processes without a rank ended on nodes that are draining: parked ones, and those whose rank has moved."""
    out = _EMPTIED[draft.fleet.service]
    if out.any():
        hosts = job.hosts
        fence_once(draft, job, out[hosts.node] & (hosts.rank == NONE) & hosts.live())


def fence_once(draft: Draft, job: Job, rows: np.ndarray) -> None:
    """Fence processes (a mask of rows) for which no fence is under way."""
    if not rows.any():
        return
    asked = {
        item
        for effect in draft.state.effects.values()
        if effect.kind is EffectKind.FENCE_HOSTS and effect.job == job.uid
        for item in effect.items
    }
    serials = [serial for serial in job.hosts.serial[rows].tolist() if host_id(job.uid, serial) not in asked]
    fence(draft, job, serials)


def missing_processes(job: Job, nodes: Sequence[int] | np.ndarray) -> dict[int, int]:
    """How many parked processes are still missing at new places (a node number per rank), by node."""
    hosts = job.hosts
    parked = hosts.node[(hosts.generation == 0) & (hosts.state == RankState.PARKED)]
    wanted, counts = np.unique(np.array(nodes, dtype=np.int64), return_counts=True)
    short = {
        int(node): int(count - np.count_nonzero(parked == node)) for node, count in zip(wanted, counts, strict=True)
    }
    return {node: count for node, count in short.items() if count > 0}


def plan(draft: Draft, job: Job) -> tuple[str, dict[int, int]]:
    """The next step of a running job off draining nodes.

    Returns:
        (what it waits for, processes that must be started first by node number); ("", {}) when there is nothing to do, or
        when the move has begun: then the ranks have been taken from their processes.
    """
    fleet = draft.fleet
    ranks = leaving(fleet, job)
    if not ranks or job.state is not JobState.RUNNING:
        return "", {}
    cause = _cause(fleet, job, ranks)
    places = replace_ranks(fleet, job, ranks, frozenset())
    if isinstance(places, Blocked):
        return f"{cause} waits: {places.reason}", {}
    missing = missing_processes(job, places.nodes)
    if missing:
        return f"{cause} waits for processes to park at the new places", missing
    waits = "" if _quarantined(fleet, job, ranks) else save_first(draft, job, cause)
    if waits:
        return waits, {}
    cause += outcome(job)
    lost = tuple(planned_loss(rank, int(job.rank_host[rank]), cause, draft.now_ns) for rank in ranks)
    lose_ranks(draft, job, lost, cause)
    return "", {}


def give_up_quarantined(draft: Draft, job: Job) -> bool:
    """Take the ranks of a suspended job from their processes on nodes in quarantine. They stand still, the checks of their
    node wait until they are gone, and the job may be waiting for that very node. True: there were some."""
    fleet = draft.fleet
    stuck = job.present & (job.rank_host != NONE) & (fleet.service[job.rank_node] == NodeService.QUARANTINED)
    ranks = tuple(np.flatnonzero(stuck).tolist())
    if not ranks:
        return False
    cause = _cause(fleet, job, ranks)
    lost = tuple(planned_loss(rank, int(job.rank_host[rank]), cause, draft.now_ns) for rank in ranks)
    lose_ranks(draft, job, lost, cause)
    return True


def _cause(fleet: Fleet, job: Job, ranks: tuple[int, ...]) -> str:
    nodes = sorted({int(job.rank_node[rank]) for rank in ranks})
    names = ", ".join(fleet.name(node) for node in nodes[:4]) + (
        f" and {len(nodes) - 4} more" if len(nodes) > 4 else ""
    )
    return f"{'quarantine' if _quarantined(fleet, job, ranks) else 'drain'} of {names}"


def _quarantined(fleet: Fleet, job: Job, ranks: tuple[int, ...]) -> bool:
    """Whether any of the ranks stands on a node that was taken out by its health: what it computes is not worth waiting for."""
    return bool((fleet.service[job.rank_node[list(ranks)]] == NodeService.QUARANTINED).any())


def finish(draft: Draft) -> None:
    """Nodes that are draining and hold no process of any job any more are drained."""
    fleet = draft.fleet
    open_nodes = fleet.service == NodeService.DRAINING
    if not open_nodes.any():
        return
    held = np.zeros(fleet.size, dtype=np.bool_)
    for job in draft.state.active_jobs():
        left = ~job.hosts.gone() & (fleet.liveness[job.hosts.node] != NodeLiveness.DEAD)
        held[job.hosts.node[left]] = True
        if job.placed:
            held[job.rank_node[job.present]] = True
        if leaving(fleet, job):
            draft.settle(job.uid)
    for node in np.flatnonzero(open_nodes & ~held).tolist():
        draft.write(r.NodeDrained(fleet.name(node)))
