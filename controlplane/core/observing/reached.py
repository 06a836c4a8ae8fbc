"""Many processes in one state: observations in columns, judged all at once.

What a row of a `NodeReport` would not be believed is not believed here either: processes that have ended, that are
elsewhere, of another generation, on nodes for which the source does not speak, or older than what is known are passed over.
Strays are never found this way: they are told in full reports of their nodes, which fence them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from controlplane.core import events as ev
from controlplane.core import ranges
from controlplane.core import records as r
from controlplane.core.draft import Answer, Draft, Refusal
from controlplane.core.jobs import NONE, Job
from controlplane.core.units import NS_PER_MS
from controlplane.core.vocabulary import NodeLiveness, RankState

COLUMNS: Mapping[RankState, frozenset[int]] = {
    RankState.PARKED: frozenset({NONE}),
    RankState.JOINING: frozenset({0}),
    RankState.RESTORING: frozenset({1, 2}),
    RankState.RUNNING: frozenset({3}),
    RankState.PAUSED: frozenset({NONE}),
}
"""States that are told in columns, and the moments of `Job.rank_times` that they may stand for."""


def hosts_reached(draft: Draft, event: ev.HostsReached) -> None:
    """Write down the processes that have got as far as the event says; the answer counts those that were passed over."""
    job = draft.state.jobs.get(event.job)
    refusal = _refusal(job, event)
    if refusal is not None or job is None:
        draft.reply = refusal
        return
    at_ns = min(event.at_ns, draft.now_ns)
    hosts = job.hosts
    eligible = (hosts.generation == event.generation) & hosts.live()
    told = eligible & ranges.within(hosts.serial, event.serials) & _spoken_for(draft, job, event)
    told &= hosts.since_ms <= at_ns // NS_PER_MS
    draft.reply = Answer({"passed_over": str(ranges.size(event.serials) - int(np.count_nonzero(told)))})
    if not _is_news(job, event, told):
        return
    serials = ranges.cover(hosts.serial[eligible], told[eligible])
    draft.write(r.HostsReached(job.uid, event.generation, event.state, serials, at_ns, event.column, event.source))
    draft.settle(job.uid)


def _refusal(job: Job | None, event: ev.HostsReached) -> Refusal | None:
    if job is None or job.terminal:
        return Refusal("stale", "NO_SUCH_JOB", f"{event.source} tells of job {event.job}, which has ended: dropped")
    parked = event.state is RankState.PARKED
    if event.column not in COLUMNS.get(event.state, ()) or any(count < 0 for _, count in event.serials):
        text = (
            f"{event.source} tells of processes {event.state.name} at moment {event.column}: send a report of the node"
        )
        return Refusal("invalid", "NOT_UNIFORM", text)
    if event.generation != (0 if parked else job.generation):
        text = f"{event.source} tells of generation {event.generation} of {job.name}, which is in {job.generation}: dropped"
        return Refusal("stale", "OLD_GENERATION", text)
    return None


def _spoken_for(draft: Draft, job: Job, event: ev.HostsReached) -> np.ndarray:
    """Mask over processes: their node is seen, and the source speaks for it."""
    fleet = draft.fleet
    seen = fleet.session & (fleet.liveness != NodeLiveness.DEAD)
    if event.nodes is not None:
        seen &= ranges.within(np.arange(fleet.size), event.nodes)
    mask: np.ndarray = seen[job.hosts.node]
    return mask


def _is_news(job: Job, event: ev.HostsReached, told: np.ndarray) -> bool:
    """Whether the event says something that is not known of one of these processes."""
    hosts = job.hosts
    if (told & (hosts.state != event.state)).any():
        return True
    held = told & (hosts.rank != NONE)
    return event.column != NONE and bool((job.rank_times[hosts.rank[held], event.column] == 0).any())
