"""What a hello tells again is told with the moments that are known already.

Agents send ages. What becomes of them on our clock differs by the way of each message, so that a process that nothing has happened
to would be news at every hello: a site that comes back would write down all its processes once more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from controlplane.core.events import HostRow
from controlplane.core.jobs import NONE, Job
from controlplane.core.state import State
from controlplane.core.units import NS_PER_MS, seconds

SAME_NS = seconds(10)
"""Moments of one state of one process that are no further apart are the same: as long as a hello may take to be heard."""


def as_known(rows: tuple[HostRow, ...], state: State) -> tuple[HostRow, ...]:
    """Rows of living processes in the state that is known of them, with its moments; all others as they are."""
    uids = dict.fromkeys(row.job for row in rows)
    if len(uids) <= 1:
        return _of_job(rows, state.jobs.get(next(iter(uids), "")))
    return tuple(told for uid in uids for told in _of_job([row for row in rows if row.job == uid], state.jobs.get(uid)))


def _of_job(rows: Sequence[HostRow], job: Job | None) -> tuple[HostRow, ...]:
    """Rows of one job."""
    if job is None or job.terminal or not job.placed:
        return tuple(rows)
    hosts = job.hosts
    at = hosts.rows(np.array([row.serial for row in rows], dtype=np.int32))
    found, at = (at != NONE).tolist(), np.maximum(at, 0)
    if not any(found):
        return tuple(rows)
    known = zip(hosts.state[at].tolist(), hosts.rank[at].tolist(), hosts.generation[at].tolist(), strict=True)
    since = (hosts.since_ms[at] * NS_PER_MS).tolist()
    times = job.rank_times[np.maximum(hosts.rank[at], 0)].tolist()
    return tuple(
        _with(row, since_ns, ours if job.bound(row.rank, row.generation, row.serial) else row.times)
        if is_found and row.exit is None and what == (row.state, row.rank, row.generation)
        else row
        for row, is_found, what, since_ns, ours in zip(rows, found, known, since, times, strict=True)
    )


def _with(row: HostRow, since_ns: int, known: Sequence[int]) -> HostRow:
    """A row with known moments, where they are the ones that it tells of."""
    joining, met, restored, stepped = (_nearest(told, ours) for told, ours in zip(row.times, known, strict=True))
    return HostRow(
        row.job, row.serial, row.state, row.rank, row.generation, row.pid, row.host_pid, _nearest(row.since_ns, since_ns),
        None, joining, met, restored, stepped,
    )  # fmt: skip


def _nearest(told_ns: int, known_ns: int) -> int:
    """The known moment when it is the one that is told of; 0 is none."""
    return known_ns if told_ns and known_ns and abs(told_ns - known_ns) <= SAME_NS else told_ns
