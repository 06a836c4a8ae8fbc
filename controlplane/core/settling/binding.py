"""A process for every rank, then the next generation."""

from __future__ import annotations

import numpy as np

from controlplane.core import records as r
from controlplane.core.draft import Draft
from controlplane.core.effects import EffectKind
from controlplane.core.jobs import NONE, Job, host_id
from controlplane.core.observing.losses import lose_ranks
from controlplane.core.orders import end_job, outstanding
from controlplane.core.ranges import runs
from controlplane.core.recovery.budgets import backoff_ns
from controlplane.core.recovery.rungs import misplaced
from controlplane.core.settling import restoring
from controlplane.core.settling.deciding import ended_ranks
from controlplane.core.settling.placing import homeless_rank, place_again
from controlplane.core.settling.saving import set_interval
from controlplane.core.settling.waiting import waits_to_see
from controlplane.core.settling.words import parking, say
from controlplane.core.units import ms
from controlplane.core.vocabulary import JobState, NodeLiveness, RankState

PATCH_ROWS = 64

PATCH_SHARE = 4
"""A generation that changes more than 64 ranks and more than a quarter of them is sent whole: the patch would hardly be
smaller."""


def _blocking(draft: Draft, job: Job) -> list[str]:
    """Processes of older generations that may still run, on nodes that are not DEAD (S1): the job's own, and those that
    other jobs left on its nodes when their ranks moved away."""
    names = []
    for other in draft.state.active_jobs():
        hosts = other.hosts
        dead = draft.fleet.liveness[hosts.node] == NodeLiveness.DEAD
        old = (hosts.generation > 0) & (hosts.rank == NONE) & ~hosts.gone() & ~dead
        if other.uid != job.uid and old.any():
            old &= np.isin(hosts.node, job.rank_node)
        names += [host_id(other.uid, int(serial)) for serial in hosts.serial[old]]
    return names


def needs_generation(job: Job) -> bool:
    """Whether the current rank table does not count any more."""
    incident = job.incident
    return bool(job.unbound.any()) or bool(incident and incident.decided_ns and not incident.placed_ns)


def bind(draft: Draft, job: Job) -> None:
    """Find a parked process for every rank without one; when all are there, a new generation begins."""
    finished = ended_ranks(job)
    if finished:
        lose_ranks(draft, job, finished, finished[0].cause)
        return
    open_ranks = tuple(np.flatnonzero(job.unbound).tolist())
    since_ns = job.incident.decided_ns if job.incident else job.submitted_ns
    if waits_to_see(draft, job, open_ranks, since_ns):
        return
    homeless = misplaced(job, draft.fleet, open_ranks)
    if homeless and not job.generation:
        place_again(draft, job, homeless)
        return
    if homeless:
        lost = tuple(homeless_rank(draft, job, rank) for rank in homeless)
        lose_ranks(draft, job, lost, lost[0].cause)
        return
    chosen, missing = _match(job, open_ranks)
    if draft.now_ns < job.not_before_ns:
        say(draft, job, "backs off before the next start")
        return
    if missing:
        if not _give_up_starting(draft, job):
            request(draft, job, missing)
            say(draft, job, parking(draft, missing))
        return
    blocking = _blocking(draft, job)
    if blocking:
        say(draft, job, f"waits until processes of the last generation are gone: {len(blocking)}")
        return
    cell = draft.state.cell()
    if cell is None or not cell.store_address:
        say(draft, job, "waits for the rendezvous store of a cell")
        return
    _start_generation(draft, job, chosen)


def _within(nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(order that sorts by node and keeps the order inside, how many of the same node came before, in that order)."""
    order = np.argsort(nodes, kind="stable")
    grouped = nodes[order]
    first = np.searchsorted(grouped, grouped, side="left")
    return order, np.arange(len(nodes)) - first


def _match(job: Job, ranks: tuple[int, ...]) -> tuple[dict[int, int], dict[int, int]]:
    """(rank -> serial of a parked process on its node, node -> processes still missing).

    The n-th open rank of a node gets its n-th parked process.
    """
    hosts = job.hosts
    free = np.flatnonzero((hosts.generation == 0) & (hosts.state == RankState.PARKED))
    at = np.array(ranks, dtype=np.int64)
    by_rank, rank_nth = _within(job.rank_node[at])
    by_host, host_nth = _within(hosts.node[free])
    stride = max(len(at), len(free)) + 1
    wanted = job.rank_node[at[by_rank]].astype(np.int64) * stride + rank_nth
    offered = hosts.node[free[by_host]].astype(np.int64) * stride + host_nth
    _, took, given = np.intersect1d(wanted, offered, assume_unique=True, return_indices=True)
    chosen = dict(zip(at[by_rank[took]].tolist(), hosts.serial[free[by_host[given]]].tolist(), strict=True))
    left = np.ones(len(at), dtype=np.bool_)
    left[by_rank[took]] = False
    nodes, counts = np.unique(job.rank_node[at[left]], return_counts=True)
    return chosen, dict(zip(nodes.tolist(), counts.tolist(), strict=True))


def _give_up_starting(draft: Draft, job: Job) -> bool:
    """Processes that end before they hold a rank are charged to the user's budget of starts."""
    budget = job.spec.restart_policy.user
    if budget.max < 0 or job.failed_starts <= budget.max:
        return False
    reason = (
        f"processes ended {job.failed_starts} times before they could hold a rank (user budget {budget.max}); "
        f"last error: {job.last_error}"
    )
    end_job(draft, job, JobState.FAILED, reason, 0)
    return True


def request(draft: Draft, job: Job, missing: dict[int, int]) -> None:
    """Have processes started where fewer are on the way than needed."""
    cell = draft.state.cell()
    if cell is None or not cell.open:
        return
    hosts = job.hosts
    coming = (hosts.generation == 0) & (hosts.state == RankState.STARTING)
    last = int(hosts.since_ms.max(initial=0))
    if job.failed_starts and draft.now_ns < ms(last) + backoff_ns(job.spec.restart_policy.backoff, job.failed_starts):
        return
    nodes: list[int] = []
    open_nodes = draft.fleet.schedulable()
    under_way = np.bincount(hosts.node[coming], minlength=draft.fleet.size)
    for node, count in sorted(missing.items()):
        if open_nodes[node]:
            nodes.extend([node] * max(0, count - int(under_way[node])))
    if not nodes:
        return
    serials = tuple(range(job.next_host, job.next_host + len(nodes)))
    draft.write(r.HostsRequested(job.uid, serials, tuple(nodes)))
    items = tuple(host_id(job.uid, serial) for serial in serials)
    timeout = job.spec.timeouts.start_ms
    draft.effect(EffectKind.START_HOSTS, f"cell:{cell.name}", job=job.uid, items=items, timeout_ms=timeout)


def _start_generation(draft: Draft, job: Job, chosen: dict[int, int]) -> None:
    ranks = sorted(chosen)
    set_interval(draft, job)
    origin = restoring.origin(draft, job)
    if job.spec.checkpoint.resume_from and not origin.step:
        end_job(draft, job, JobState.FAILED, restoring.without_origin(job), 0)
        return
    generation = job.next_generation
    hosts = runs(chosen[rank] for rank in ranks)
    participants = 0 if job.whole else int(np.count_nonzero(job.present))
    draft.write(
        r.GenerationStarted(
            job.uid, generation, hosts, runs(ranks), origin.checkpoint, origin.step, participants, origin.keeps_state,
            origin.sources, origin.passed_over, origin.redone_ns,
        )
    )  # fmt: skip
    overtaken = outstanding(draft, job, EffectKind.APPLY_GENERATION)
    if overtaken:
        draft.write(r.EffectsFinished(overtaken, ok=False, message=f"superseded by generation {generation}"))
    resized = not job.whole or job.participants > 0  # a patch cannot say that a rank is gone
    whole = generation == 1 or resized or len(ranks) > max(PATCH_ROWS, job.spec.ranks // PATCH_SHARE)
    fresh = () if whole else sorted({int(job.rank_node[rank]) for rank in ranks})
    draft.effect(
        EffectKind.APPLY_GENERATION,
        f"job:{job.uid}",
        job=job.uid,
        generation=generation,
        items=() if whole else tuple(map(str, ranks)),
        nodes=tuple(draft.fleet.name(node) for node in fresh),
        full=whole,
        timeout_ms=job.spec.timeouts.join_ms,
    )
