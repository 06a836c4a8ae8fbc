"""What a node agent says of its rank hosts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.applying.hosts import bound_rows
from controlplane.core.draft import Draft
from controlplane.core.effects import EffectKind
from controlplane.core.jobs import NONE, Exit, Job, LostRank, host_id
from controlplane.core.observing.losses import describe_exit, lose_ranks, lost_rank
from controlplane.core.units import NS_PER_MS
from controlplane.core.vocabulary import ENDED_PROCESS, RankState

FENCING = "fencing"
"""Owner of the cordon that keeps new ranks off a node while processes of an old generation live there."""

MAX_ROWS = 4_096
"""Rows of one record: an entry of the journal stays below a megabyte."""


def host_rows(
    draft: Draft, node: str, number: int, rows: Sequence[ev.HostRow], *, full: bool
) -> tuple[ev.HostRow, ...]:
    """Rows of a node: ends of ours are written down, strays are fenced, what is gone may be forgotten. Returns the rows of our
    living processes, which `living` judges together with those of other nodes."""
    alive: list[ev.HostRow] = []
    strays: list[str] = []
    gone: list[str] = []
    by_job: dict[str, list[ev.HostRow]] = {}
    seen: set[tuple[str, int]] = set()
    if not full and _all_run(draft, rows, number):
        rows, alive = (), list(rows)
    for row in rows:
        seen.add((row.job, row.serial))
        ended = row.state in ENDED_PROCESS
        empty = ended and (row.exit is None or row.exit.group_empty)
        if empty:
            gone.append(host_id(row.job, row.serial))
        if _concerns(draft, row, number, ended=ended):
            if ended:
                by_job.setdefault(row.job, []).append(row)
            else:
                alive.append(row)
        elif not empty:
            strays.append(host_id(row.job, row.serial))
    for uid, job_rows in by_job.items():
        _ended(draft, draft.state.jobs[uid], number, job_rows)
    if gone:
        draft.effect(EffectKind.FORGET_HOSTS, f"node:{node}", items=tuple(gone))
    if full:
        _missing(draft, node, number, seen)
    _fence_cordon(draft, node, number, strays, gone, full=full)
    if strays:
        draft.effect(EffectKind.FENCE_HOSTS, f"node:{node}", items=tuple(strays))
    return tuple(alive)


def living(draft: Draft, job: Job, told: Sequence[tuple[int, ev.HostRow]]) -> None:
    """Rows of living processes of a job, each with the number of the node that tells: what is new is written down.

    Nothing is new of processes that have ended or were forgotten since the row was told, that are elsewhere, or that hold a rank
    of another generation than the one they tell of.
    """
    hosts = job.hosts
    rows = [row for _, row in told]
    at = hosts.rows(np.array([row.serial for row in rows], dtype=np.int32))
    found = np.flatnonzero(at != NONE)
    rows, at = [rows[index] for index in found], at[found]
    nodes = np.array([number for number, _ in told], dtype=np.int32)[found]
    current = hosts.generation[at] == np.array([row.generation for row in rows], dtype=np.int64)
    ours = (hosts.node[at] == nodes) & hosts.live()[at] & (current | (hosts.rank[at] == NONE)) & _is_news(job, at, rows)
    fresh = tuple(
        row if is_current or row.rank == NONE else _parked(row)
        for row, is_current, is_ours in zip(rows, current, ours, strict=True)
        if is_ours
    )
    for first in range(0, len(fresh), MAX_ROWS):
        some = slice(first, first + MAX_ROWS)
        numbers = tuple(np.unique(nodes[ours][some]).tolist())
        draft.write(r.HostsObserved(job.uid, numbers, fresh[some]))
    draft.settle(job.uid)


def _is_news(job: Job, at: np.ndarray, rows: Sequence[ev.HostRow]) -> np.ndarray:
    """Mask over rows that say something else than is known of the processes in rows `at` of the columns."""
    hosts = job.hosts
    told = np.array([(row.state, row.pid, row.host_pid, row.since_ns // NS_PER_MS) for row in rows], dtype=np.int64)
    known = np.column_stack((hosts.state[at], hosts.pid[at], hosts.host_pid[at], hosts.since_ms[at]))
    news: np.ndarray = (told.reshape(-1, 4) != known).any(axis=1)
    bound, ranks, times = bound_rows(job, rows)
    news[bound] |= (job.rank_times[ranks] != times).any(axis=1)
    return news


def _all_run(draft: Draft, rows: Sequence[ev.HostRow], number: int) -> bool:
    """Whether all rows tell of living processes of one job that we think about, here: what every node says while a gang starts."""
    job = draft.state.jobs.get(rows[0].job) if rows else None
    if job is None or job.terminal or any(row.job != job.uid or row.state in ENDED_PROCESS for row in rows):
        return False
    hosts = job.hosts
    at = hosts.rows(np.array([row.serial for row in rows], dtype=np.int32))
    known = (at != NONE) & (hosts.node[at] == number) & (hosts.state[at] < RankState.EXITED)
    return bool(known.all())


def _concerns(draft: Draft, row: ev.HostRow, number: int, *, ended: bool) -> bool:
    """Whether a row tells of a process that we still think about: ours, here, and not known to be gone."""
    job = draft.state.jobs.get(row.job)
    at = job.hosts.row(row.serial) if job and not job.terminal else NONE
    if job is None or at == NONE or int(job.hosts.node[at]) != number:
        return False
    return job.hosts.state[at] not in ENDED_PROCESS or (ended and not job.hosts.empty[at])


def _fence_cordon(draft: Draft, node: str, number: int, strays: list[str], gone: list[str], *, full: bool) -> None:
    """Keep new ranks off a node while strays live there (S1). A full snapshot says which; between two of them strays are
    added as they show and taken away as they are reported gone."""
    cordons = draft.fleet.facts[number].cordons if number < draft.fleet.size else ()
    held = next((cordon for cordon in cordons if cordon.owner == FENCING), None)
    known = held.items if held else ()
    left = {*strays} if full else {*known, *strays} - {*gone}
    if left and left != {*known}:
        names = tuple(sorted(left))
        text = f"processes of old generations live: {', '.join(names[:8])}"
        draft.write(r.NodeCordoned(node, FENCING, text, names))
    elif held and not left:
        draft.write(r.NodeUncordoned(node, FENCING))
        for job in draft.state.active_jobs():
            draft.settle(job.uid)


def _missing(draft: Draft, node: str, number: int, seen: set[tuple[str, int]]) -> None:
    """Processes that we think may run and the agent does not know: fence, so that it scans and says that they are gone."""
    for job in draft.state.active_jobs():
        hosts = job.hosts
        here = np.flatnonzero(hosts.node == number)
        maybe = here[(hosts.empty[here] == 0) & (hosts.state[here] != RankState.STARTING)]
        gone = [serial for serial in hosts.serial[maybe].tolist() if (job.uid, serial) not in seen]
        if gone:
            items = tuple(host_id(job.uid, serial) for serial in gone)
            draft.effect(EffectKind.FENCE_HOSTS, f"node:{node}", job=job.uid, items=items)


def _ended(draft: Draft, job: Job, number: int, rows: list[ev.HostRow]) -> None:
    """Processes of a job on a node that have ended."""
    hosts = job.hosts
    lost: list[LostRank] = []
    forgotten: list[int] = []
    for row in rows:
        at = hosts.row(row.serial)
        rank = int(hosts.rank[at])
        exit_ = row.exit or Exit(observed=False, group_empty=True)
        first = hosts.state[at] not in ENDED_PROCESS
        fault_ns = row.since_ns or draft.now_ns
        record = draft.write(r.HostEnded(job.uid, row.serial, rank, fault_ns, exit_))
        if rank == NONE:
            if first and int(hosts.generation[at]) == 0 and not job.ending:
                _start_failed(draft, job, at, exit_)
            if exit_.group_empty:
                forgotten.append(row.serial)
        elif not exit_.finished and not job.ending:
            lost.append(lost_rank(draft.fleet.name(number), rank, row.serial, exit_, fault_ns, record=record))
            if exit_.group_empty:
                forgotten.append(row.serial)
    if lost:
        lose_ranks(draft, job, tuple(lost), lost[0].cause)
    if forgotten:
        draft.write(r.HostsForgotten(job.uid, tuple(forgotten)))
    draft.settle(job.uid)


def _parked(row: ev.HostRow) -> ev.HostRow:
    """The row of a process that has not yet heard of its newer assignment."""
    return ev.HostRow(row.job, row.serial, row.state, NONE, 0, row.pid, row.host_pid, row.since_ns)


def _start_failed(draft: Draft, job: Job, at: int, exit_: Exit) -> None:
    """A parked (or parking) process ended by itself, or had to be ended because it did not park in time.

    What we fenced for other reasons does not count.
    """
    start_ms = job.spec.timeouts.start_ms
    age_ms = draft.now_ns // NS_PER_MS - int(job.hosts.since_ms[at])
    late = job.hosts.state[at] == RankState.STARTING and age_ms > start_ms
    if late:
        text = f"it did not park within {start_ms / 1000:g} s"
    elif exit_.sender == "agent" or draft.fleet.emptying()[job.hosts.node[at]]:
        return
    else:
        text = (exit_.message or describe_exit(exit_)) if exit_.observed else "it vanished before it held a rank"
    draft.write(r.StartFailed(job.uid, int(job.hosts.serial[at]), text))
