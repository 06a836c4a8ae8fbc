"""One pool of spares for all jobs: how many each keeps warm, and whose spares a job in need may take. Pure.

Spares are insurance, a lost rank is a need: a job in need takes its own warm spares first, then free nodes, then spares that
are held for jobs of its own or a lower priority. Never those of a job with a higher priority: that would leave the more
important job uninsured. What was taken is refilled in the background.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from controlplane.core.columns import put
from controlplane.core.fleet import DOMAIN_KINDS, LENT, Fleet
from controlplane.core.jobs import Job
from controlplane.core.placement.spares import SparePlan, Wear, shares, wanted
from controlplane.core.spec import AUTO

SUPERPOD = DOMAIN_KINDS.index("superpod")
"""A spare stands in for nodes of its own super-pod; nodes without that label are one domain."""


@dataclass(frozen=True, slots=True)
class Share:
    """Spare nodes that a job should keep warm, and why so many."""

    nodes: int
    reason: str


def by_turn(jobs: Iterable[Job]) -> list[Job]:
    """Jobs by priority, then by submission."""
    return sorted(jobs, key=_turn)


def share_of(job: Job, jobs: Iterable[Job], fleet: Fleet, wear: Wear, plan: SparePlan) -> Share:
    """The spares of one job. With `auto` the site's number is dealt out to all such jobs by their nodes.

    Args:
        job: a placed job.
        jobs: all that have not ended.
        fleet: for the failure domains.
        wear: failures and refills of the site.
        plan: policy.
    """
    asked = job.spec.spares.warm_nodes
    if asked != AUTO:
        return Share(asked, "as the manifest says")
    sharing = [other for other in by_turn(jobs) if other.spec.spares.warm_nodes == AUTO and other.placed]
    used = np.zeros(fleet.size, dtype=bool)
    for other in sharing:
        ranks = other.per_node()
        used[: len(ranks)] |= ranks > 0
    whole = wanted(np.bincount(fleet.domains[used, SUPERPOD] + 1).tolist(), wear, plan)
    dealt = shares(whole.total, (int(np.count_nonzero(other.per_node())) for other in sharing))
    mine = dealt[[other.uid for other in sharing].index(job.uid)]
    return Share(mine, f"{mine} of the site's {whole.total}: {whole.reason}")


def lend(fleet: Fleet, job: Job, jobs: Iterable[Job]) -> Fleet:
    """The fleet as a job in need may use it: spares of others that it may take are marked as LENT."""
    taken = [
        node
        for other in jobs
        if other.uid != job.uid and other.spec.priority <= job.spec.priority
        for node in other.spare_nodes
    ]
    if not taken:
        return fleet
    view = fleet.clone()
    view.reserved = put(fleet.reserved, taken, LENT)
    return view


def before(job: Job, jobs: Iterable[Job]) -> list[Job]:
    """Jobs that are short of spares and whose turn comes before a job's."""
    ahead = [other for other in by_turn(jobs) if other.placed and _turn(other) < _turn(job)]
    return [other for other in ahead if len(other.spare_nodes) < other.wanted_spares]


def _turn(job: Job) -> tuple[int, int]:
    return -job.spec.priority, job.serial


def short(jobs: Iterable[Job]) -> bool:
    """Whether a job that has a place holds fewer spares than it should."""
    return any(len(job.spare_nodes) < job.wanted_spares for job in jobs if job.placed)
