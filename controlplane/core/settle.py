"""Level-triggered: compare one job with what it wants, and take the next step towards it. Called after every change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from controlplane.core import draining
from controlplane.core import records as r
from controlplane.core.checkpoints import expirable, restore_point
from controlplane.core.draft import Draft
from controlplane.core.effects import EffectKind
from controlplane.core.jobs import NONE, Job, LostRank, host_id
from controlplane.core.observe import lose_ranks
from controlplane.core.orders import end_job, fence, request_verification, stop_processes
from controlplane.core.placement.gang import Blocked, Placement, place, refill_spares, replace_ranks
from controlplane.core.placement.queue import must_yield_to
from controlplane.core.recovery.budgets import backoff_ns
from controlplane.core.recovery.decide import Verdict, decide, misplaced, survivors, unsure
from controlplane.core.units import ms
from controlplane.core.vocabulary import Blame, CheckpointState, JobState, NodeLiveness, Phase, RankState, Rung

PATCH_ROWS = 64
PATCH_SHARE = 4
"""A generation that changes more than 64 ranks and more than a quarter of them is sent whole: the patch would hardly be
smaller, and its ranks would stand in the record of every node's effect."""
PHASES = (Phase.START, Phase.RENDEZVOUS, Phase.RESTORE, Phase.FIRST_STEP)


def settle(draft: Draft, uid: str) -> None:
    """One step for one job; every written record leads to another look."""
    job = draft.state.jobs.get(uid)
    if job is None or job.terminal:
        return
    before = len(draft.records)
    if job.ending is None:
        draining.clear(draft, job)
    _settle(draft, job)
    if len(draft.records) > before:
        draft.settle(uid)


def _settle(draft: Draft, job: Job) -> None:
    if job.ending is not None:
        _finish_ending(draft, job, job.ending)
    elif _all_finished(job):
        end_job(draft, job, JobState.SUCCEEDED, "all ranks finished", 0)
    elif not job.placed:
        _place(draft, job)
    elif job.incident is not None and not job.incident.decided_ns:
        _decide(draft, job)
    elif job.state is JobState.SUSPENDED:
        _resume(draft, job)
    elif _needs_generation(job):
        _bind(draft, job)
    else:
        before = len(draft.records)
        _phases(draft, job)
        _checkpoints(draft, job)
        _top_up(draft, job)
        if len(draft.records) == before:
            _leave_nodes(draft, job)


def _all_finished(job: Job) -> bool:
    """Every rank still holds its process, and every one of them ended with the final marker (others lose their rank)."""
    if not job.placed or (job.rank_host == NONE).any() or not job.generation:
        return False
    hosts = job.hosts
    rows = hosts.rows(job.rank_host)
    return bool((hosts.state[rows] == RankState.EXITED).all())


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


def _finish_ending(draft: Draft, job: Job, target: JobState) -> None:
    hosts = job.hosts
    dead = draft.fleet.liveness[hosts.node] == NodeLiveness.DEAD
    left = int(np.count_nonzero(~hosts.gone() & ~dead))
    if left == 0:
        draft.write(r.JobEnded(job.uid, target, job.end_reason))
        for other in draft.state.active_jobs():
            if other.uid != job.uid:
                draft.settle(other.uid)
        folders = _unreachable_folders(job)
        if folders:
            _sweep(draft, job, folders)
        return
    _say(draft, job, f"ending as {target.name}: its processes are being stopped")


def _unreachable_folders(job: Job) -> tuple[str, ...]:
    """Folders of checkpoints that were never completed."""
    return tuple(c.folder for c in job.checkpoints.values() if c.state is CheckpointState.WRITING)


def _say(draft: Draft, job: Job, blocker: str, state: JobState | None = None) -> None:
    """Name what the job waits for, once."""
    target = state or job.state
    if job.blocker != blocker or job.state is not target:
        draft.write(r.JobStateChanged(job.uid, target, blocker))


def _leave_nodes(draft: Draft, job: Job) -> None:
    """Take the next step of a running job off draining nodes."""
    if job.state is not JobState.RUNNING:
        return
    waits, missing = draining.plan(draft, job)
    if missing:
        _request(draft, job, missing)
    if waits or not draining.leaving(draft.fleet, job):
        _say(draft, job, waits)


def _place(draft: Draft, job: Job) -> None:
    hosts = job.hosts
    if (hosts.live() & draft.fleet.session[hosts.node]).any():
        _say(draft, job, "waits until processes of the last try are gone")
        return
    patience_ns = ms(draft.policy.queue_patience_ms)
    first = must_yield_to(job, draft.state.active_jobs(), draft.fleet, draft.now_ns, patience_ns)
    if first is not None:
        _say(draft, job, f"waits for its turn behind {first.name}")
        return
    placed = place(draft.fleet, job.spec)
    if isinstance(placed, Blocked):
        _say(draft, job, placed.reason)
        return
    draft.write(r.JobPlaced(job.uid, placed.nodes, placed.flat, placed.spares))


def _decide(draft: Draft, job: Job) -> None:
    incident = job.incident
    if incident is None or draft.now_ns < incident.collect_until_ns:
        return
    finished = _ended_ranks(job)
    if finished:
        draft.write(r.RanksLost(job.uid, finished, incident.collect_until_ns, incident.step, incident.cause))
        return
    lost = tuple(int(rank) for rank in np.flatnonzero(~survivors(job)))
    if _waits_to_see(draft, job, lost, incident.detected_ns):
        return
    step = max(incident.step, draft.soft.progress(job.uid)[0])
    verdict = decide(job, draft.fleet, draft.now_ns, step)
    _write_verdict(draft, job, verdict, step)


def _waits_to_see(draft: Draft, job: Job, ranks: tuple[int, ...], since_ns: int) -> bool:
    """Whether to wait a moment for nodes of `ranks` that we merely do not see whole; says so."""
    if draft.now_ns >= max(since_ns, draft.soft.trusted_since_ns()) + ms(draft.policy.patience_ms):
        return False
    hidden = unsure(job, draft.fleet, ranks)
    if hidden:
        _say(draft, job, f"waits to see {_some([draft.fleet.name(node) for node in hidden])} whole again")
    return bool(hidden)


def _ended_ranks(job: Job) -> tuple[LostRank, ...]:
    """Ranks that had already finished when another was lost: they must run again from the restore point."""
    hosts = job.hosts
    if not len(hosts.serial):
        return ()
    rows = hosts.rows(job.rank_host)
    lost = []
    for rank in np.flatnonzero((job.rank_host != NONE) & (hosts.state[rows] == RankState.EXITED)).tolist():
        text = f"rank {rank} had finished, but not the whole gang"
        since_ns = ms(int(hosts.since_ms[rows[rank]]))
        lost.append(LostRank(rank, int(job.rank_host[rank]), text, Blame.INFRASTRUCTURE, since_ns, text, True))
    return tuple(lost)


def _write_verdict(draft: Draft, job: Job, verdict: Verdict, step: int) -> None:
    if (
        verdict.rung is Rung.SUSPEND
        and job.incident
        and job.incident.rung == Rung.SUSPEND
        and job.blocker == verdict.reason
    ):
        return
    draft.write(
        r.RecoveryDecided(
            job.uid, verdict.rung, verdict.reason, verdict.ranks, verdict.blame, verdict.charged, step,
            verdict.not_before_ns, verdict.tried, verdict.budgets, verdict.evidence,
        )
    )  # fmt: skip
    match verdict.rung:
        case Rung.FAIL:
            end_job(draft, job, JobState.FAILED, verdict.reason, 0)
        case Rung.SUSPEND:
            _say(draft, job, verdict.reason, JobState.SUSPENDED if job.state is JobState.RECOVERING else job.state)
        case Rung.ROLLBACK | Rung.RESTART_RANK | Rung.REPLACE_RANK | Rung.RESTART_JOB:
            if verdict.moves:
                _move(draft, job, verdict.moved, verdict.moves)
            if verdict.fence:
                _restart_survivors(draft, job, verdict)
            state = JobState.RECOVERING if job.state is JobState.SUSPENDED else job.state
            _say(draft, job, "waits for processes", state)


def _restart_survivors(draft: Draft, job: Job, verdict: Verdict) -> None:
    """RESTART_JOB gives survivors up: they are fenced, and nothing starts before each is reported empty."""
    fence(draft, job, verdict.fence)
    ranks = np.flatnonzero(np.isin(job.rank_host, verdict.fence))
    draft.write(r.SurvivorsGivenUp(job.uid, tuple(int(rank) for rank in ranks)))


def _resume(draft: Draft, job: Job) -> None:
    """A suspended job looks again; the same answer is not written twice."""
    step = max(job.incident.step if job.incident else 0, draft.soft.progress(job.uid)[0])
    verdict = decide(job, draft.fleet, draft.now_ns, step)
    if verdict.rung is not Rung.SUSPEND:
        _write_verdict(draft, job, verdict, step)
    else:
        _say(draft, job, verdict.reason)


def _needs_generation(job: Job) -> bool:
    incident = job.incident
    return bool((job.rank_host == NONE).any()) or bool(incident and incident.decided_ns and not incident.placed_ns)


def _bind(draft: Draft, job: Job) -> None:
    """Find a parked process for every rank without one; when all are there, a new generation begins."""
    finished = _ended_ranks(job)
    if finished:
        lose_ranks(draft, job, finished, finished[0].cause)
        return
    open_ranks = tuple(int(rank) for rank in np.flatnonzero(job.rank_host == NONE))
    since_ns = job.incident.decided_ns if job.incident else job.submitted_ns
    if _waits_to_see(draft, job, open_ranks, since_ns):
        return
    homeless = misplaced(job, draft.fleet, open_ranks)
    if homeless and not job.generation:
        _place_again(draft, job, homeless)
        return
    if homeless:
        lost = tuple(_homeless(draft, job, rank) for rank in homeless)
        lose_ranks(draft, job, lost, lost[0].cause)
        return
    chosen, missing = _match(job, open_ranks)
    if draft.now_ns < job.not_before_ns:
        _say(draft, job, "backs off before the next start")
        return
    if missing:
        if not _give_up_starting(draft, job):
            _request(draft, job, missing)
            _say(draft, job, _parking(draft, missing))
        return
    blocking = _blocking(draft, job)
    if blocking:
        _say(draft, job, f"waits until processes of the last generation are gone: {len(blocking)}")
        return
    cell = draft.state.cell()
    if cell is None or not cell.store_address:
        _say(draft, job, "waits for the rendezvous store of a cell")
        return
    _start_generation(draft, job, chosen)


def _place_again(draft: Draft, job: Job, ranks: tuple[int, ...]) -> None:
    """Ranks that lost their place before the job could start get another, and nothing has failed; without one the whole job
    gives its places back and queues again."""
    places = replace_ranks(draft.fleet, job, ranks, frozenset())
    if isinstance(places, Blocked):
        names = sorted({draft.fleet.name(int(job.rank_node[rank])) for rank in ranks})
        draft.write(r.JobUnplaced(job.uid, f"{_some(names)} took no work any more before the job could start"))
        stop_processes(draft, job, 0)
        return
    _move(draft, job, ranks, places)


def _move(draft: Draft, job: Job, ranks: tuple[int, ...], places: Placement) -> None:
    """New places for ranks; a warm spare that takes one is a spare no more."""
    draft.write(r.RanksMoved(job.uid, ranks, places.nodes, places.flat))
    kept = tuple(node for node in job.spare_nodes if node not in places.nodes)
    if kept != job.spare_nodes:
        draft.write(r.SparesChanged(job.uid, kept))


def _homeless(draft: Draft, job: Job, rank: int) -> LostRank:
    text = f"{draft.fleet.name(int(job.rank_node[rank]))} cannot take rank {rank} any more"
    return LostRank(rank, NONE, text, Blame.INFRASTRUCTURE, draft.now_ns, text)


SHOWN = 4
"""Names in a blocker; and from twice as many missing processes on only their order of magnitude is said."""


def _some(names: Sequence[str]) -> str:
    """A few names and how many there are beside them: blockers are durable, and a job may have thousands of nodes."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _parking(draft: Draft, missing: dict[int, int]) -> str:
    """What is missing: exactly while it is little, else such that the text does not change with every process."""
    count = sum(missing.values())
    if count <= 2 * SHOWN:
        return "waits for processes to park: " + _some(
            [f"{number} on {draft.fleet.name(node)}" for node, number in sorted(missing.items())]
        )
    return f"waits for at least {1 << (count.bit_length() - 1)} processes to park"


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


def _request(draft: Draft, job: Job, missing: dict[int, int]) -> None:
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
    hosts = tuple(chosen.get(rank, int(serial)) for rank, serial in enumerate(job.rank_host.tolist()))
    point = restore_point(job.checkpoints.values())
    generation = job.next_generation
    changed = tuple(sorted({*job.changed_ranks, *chosen}))
    draft.write(
        r.GenerationStarted(job.uid, generation, hosts, changed, point.id if point else "", point.step if point else 0)
    )
    fresh = {int(job.rank_node[rank]) for rank in chosen}
    whole = generation == 1 or len(changed) > max(PATCH_ROWS, job.spec.ranks // PATCH_SHARE)
    patch = tuple(map(str, changed))
    for node in job.nodes():
        full = whole or node in fresh
        draft.effect(
            EffectKind.APPLY_GENERATION,
            f"node:{draft.fleet.name(node)}",
            job=job.uid,
            generation=generation,
            items=() if full else patch,
            full=full,
            timeout_ms=job.spec.timeouts.join_ms,
        )


def _phases(draft: Draft, job: Job) -> None:
    """Write down when all ranks have reached a phase of the current generation."""
    clock = job.clock
    known = (clock.joining_ns, clock.rendezvous_ns, clock.restored_ns, clock.running_ns)
    for column, (phase, reached) in enumerate(zip(PHASES, known, strict=True)):
        times = job.rank_times[:, column]
        if reached:
            continue
        if not len(times) or not (times > 0).all():
            return
        draft.write(r.GenerationReached(job.uid, job.generation, phase, int(times.max())))


def _checkpoints(draft: Draft, job: Job) -> None:
    """Commit what is complete, have it read back, let retention delete what is old."""
    for checkpoint in job.checkpoints.values():
        if checkpoint.state is CheckpointState.WRITING and len(checkpoint.shards) == job.spec.ranks:
            draft.write(r.CheckpointCommitted(job.uid, checkpoint.id, checkpoint.step))
            request_verification(draft, job, checkpoint.id)
            return
    old = expirable(job.checkpoints.values(), job.spec.checkpoint.keep, job.restore_id)
    if old:
        draft.write(r.CheckpointsExpired(job.uid, old))
        _sweep(draft, job, tuple(job.checkpoints[name].folder for name in old))


def _sweep(draft: Draft, job: Job, folders: tuple[str, ...]) -> None:
    node = next((n for n in [*job.nodes(), *range(draft.fleet.size)] if draft.fleet.session[n]), None)
    if node is not None:
        draft.effect(EffectKind.SWEEP_FOLDERS, f"node:{draft.fleet.name(node)}", job=job.uid, items=folders)


def _top_up(draft: Draft, job: Job) -> None:
    """While the job runs, keep warm spare nodes reserved and parked processes ready where the policy wants them."""
    if job.state is not JobState.RUNNING:
        return
    spares = refill_spares(draft.fleet, job)
    if spares != job.spare_nodes:
        draft.write(r.SparesChanged(job.uid, spares))
        return
    budget = job.spec.restart_policy.user
    if 0 <= budget.max < job.failed_starts:
        return
    most = int(np.bincount(job.rank_node).max(initial=0))
    hosts = job.hosts
    idle = (hosts.generation == 0) & hosts.live()
    there = np.bincount(hosts.node[idle], minlength=draft.fleet.size)
    starting = np.bincount(hosts.node[idle & (hosts.state == RankState.STARTING)], minlength=draft.fleet.size)
    missing: dict[int, int] = {}
    for node, count in [
        *((node, job.spec.spares.parked_per_node) for node in job.nodes()),
        *((node, most) for node in job.spare_nodes),
    ]:
        have = int(there[node])
        if have < count:
            missing[node] = count - have + int(starting[node])
    if missing:
        _request(draft, job, missing)
