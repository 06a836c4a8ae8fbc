"""Places for ranks: the whole gang, or those that lost theirs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.evidence import Facts, Reason
from controlplane.core.health.validation import before_start
from controlplane.core.jobs import NONE, Job, LostRank
from controlplane.core.orders import fence, stop_processes
from controlplane.core.placement.gang import Blocked, Placement, place, replace_ranks
from controlplane.core.placement.pool import lend
from controlplane.core.placement.queue import must_yield_to
from controlplane.core.recovery.elastic import in_replicas
from controlplane.core.recovery.rungs import unheard
from controlplane.core.settling.words import few, say, some
from controlplane.core.units import ms
from controlplane.core.vocabulary import Blame


def find_places(draft: Draft, job: Job) -> None:
    """Places for a whole new job, or what it waits for."""
    hosts = job.hosts
    if (hosts.live() & draft.fleet.session[hosts.node]).any():
        say(draft, job, "waits until processes of the last try are gone")
        return
    patience_ns = ms(draft.policy.queue_patience_ms)
    first = must_yield_to(job, draft.state.active_jobs(), draft.fleet, draft.now_ns, patience_ns)
    if first is not None:
        say(draft, job, f"waits for its turn behind {first.name}")
        return
    placed = place(draft.fleet, job.spec)
    if isinstance(placed, Blocked):
        say(draft, job, placed.reason)
        return
    untested = before_start(draft, placed.nodes)
    if untested:
        say(draft, job, untested)
        return
    draft.write(r.JobPlaced(job.uid, placed.nodes, placed.flat, placed.spares))


def place_again(draft: Draft, job: Job, ranks: tuple[int, ...]) -> None:
    """Ranks that lost their place before the job could start get another, and nothing has failed; without one the whole job
    gives its places back and queues again. Where there is no room elsewhere, nodes that we merely do not hear are waited for:
    they come back, or are DEAD after the long time-out."""
    pool = lend(draft.fleet, job, draft.state.active_jobs())
    heard_again = _may_be_heard_again(draft, job, ranks)
    for moved in (ranks, tuple(sorted({*ranks} - heard_again))) if heard_again else (ranks,):
        if not moved:
            say(
                draft,
                job,
                f"waits for {few(len(heard_again), 'ranks')} on nodes that are not heard, there is no room elsewhere",
            )
            return
        places = replace_ranks(pool, job, moved, frozenset())
        if not isinstance(places, Blocked):
            move(draft, job, moved, places)
            return
    names = sorted({draft.fleet.name(int(job.rank_node[rank])) for rank in ranks})
    draft.write(r.JobUnplaced(job.uid, f"{some(names)} took no work any more before the job could start"))
    stop_processes(draft, job, 0)


def _may_be_heard_again(draft: Draft, job: Job, ranks: tuple[int, ...]) -> set[int]:
    """Those of `ranks` whose nodes are silent, and not for so long that they would be DEAD if they were alone."""
    at = np.array(unheard(job, draft.fleet, ranks), dtype=np.int64)
    silence_s = draft.silence_s(draft.heard_ns())[job.rank_node[at]]
    return {*at[silence_s <= draft.policy.suspicion.dead_without_witness_s].tolist()}


def move(draft: Draft, job: Job, ranks: tuple[int, ...], places: Placement) -> None:
    """New places for ranks; a warm spare that takes one is a spare no more, whoever it was held for."""
    draft.write(r.RanksMoved(job.uid, ranks, places.nodes, places.flat))
    for other in draft.state.active_jobs():
        kept = tuple(node for node in other.spare_nodes if node not in places.nodes)
        if kept != other.spare_nodes:
            draft.write(r.SparesChanged(other.uid, kept))
            if other.uid != job.uid:
                give_up_parked(draft, other, set(other.spare_nodes).difference(kept))


def give_up_parked(draft: Draft, job: Job, nodes: Iterable[int]) -> None:
    """End the parked processes of a job on nodes that are not its spares any more, and look at it again."""
    hosts = job.hosts
    parked = (hosts.generation == 0) & hosts.live() & np.isin(hosts.node, list(nodes))
    fence(draft, job, hosts.serial[parked].tolist())
    draft.settle(job.uid)


def drop_replicas(draft: Draft, job: Job, replicas: tuple[int, ...]) -> None:
    """Replicas leave: what still runs of them is fenced, and their places are free once the record is applied."""
    ranks = in_replicas(job.spec, replicas) & job.present
    held = job.rank_host[ranks & (job.rank_host != NONE)]
    rows = job.hosts.rows(held)
    fence(draft, job, held[job.hosts.live()[rows]].tolist())
    draft.write(r.ReplicasDropped(job.uid, replicas))


def homeless_rank(draft: Draft, job: Job, rank: int) -> LostRank:
    """The loss of a rank whose place takes no work any more."""
    text = f"{draft.fleet.name(int(job.rank_node[rank]))} cannot take rank {rank} any more"
    return LostRank(rank, NONE, text, Blame.INFRASTRUCTURE, draft.now_ns, text, facts=Facts(Reason.PLACE_LOST))
