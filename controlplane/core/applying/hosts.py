"""Records about rank hosts into state."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from controlplane.core import records as r
from controlplane.core.columns import filled, put
from controlplane.core.events import HostRow
from controlplane.core.jobs import NONE, Hosts, Job
from controlplane.core.ranges import within
from controlplane.core.state import State
from controlplane.core.units import NS_PER_MS
from controlplane.core.vocabulary import RankState


def bound_rows(job: Job, rows: Sequence[HostRow]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of rows that tell of processes which hold a rank of the current generation: (mask, their ranks, (n, 4) their moments)."""
    told = np.array([(row.rank, row.generation, row.serial) for row in rows], dtype=np.int64).reshape(-1, 3)
    mask = job.holds(told[:, 0], told[:, 1], told[:, 2])
    times = [row.times for row, held in zip(rows, mask.tolist(), strict=True) if held]
    return mask, told[mask, 0], np.array(times, dtype=np.int64).reshape(-1, 4)


def select(hosts: Hosts, rows: np.ndarray) -> Hosts:
    """Some rows of the host columns."""
    return Hosts(*(getattr(hosts, f.name)[rows] for f in dataclasses.fields(Hosts)))


def without(hosts: Hosts, rows: np.ndarray) -> Hosts:
    """The host columns less some rows. Rows that follow each other, as most do, are cut out without a look at the others."""
    if not len(rows):
        return hosts
    first, last = int(rows.min()), int(rows.max())
    if last - first + 1 == len(rows):
        cut = slice(first, last + 1)
        return Hosts(*(np.delete(getattr(hosts, f.name), cut) for f in dataclasses.fields(Hosts)))
    keep = np.ones(len(hosts.serial), dtype=np.bool_)
    keep[rows] = False
    return select(hosts, keep)


def hosts_requested(state: State, record: r.HostsRequested, at_ns: int) -> None:
    """Processes are on their way."""
    job = state.own_job(record.job)
    count = len(record.serials)
    old = job.hosts
    none = filled(count, NONE)
    job.hosts = Hosts(
        np.append(old.serial, np.array(record.serials, dtype=np.int32)),
        np.append(old.node, np.array(record.nodes, dtype=np.int32)),
        np.append(old.state, filled(count, RankState.STARTING, np.uint8)),
        np.append(old.rank, none),
        np.append(old.generation, filled(count, 0)),
        np.append(old.pid, filled(count, 0)),
        np.append(old.host_pid, filled(count, 0)),
        np.append(old.since_ms, filled(count, at_ns // NS_PER_MS, np.int64)),
        np.append(old.empty, filled(count, 0, np.uint8)),
    )
    job.next_host = max(job.next_host, *(s + 1 for s in record.serials))


def hosts_observed(state: State, record: r.HostsObserved) -> None:
    """What nodes say of living processes."""
    job = state.own_job(record.job)
    hosts = job.hosts
    rows = hosts.rows(np.array([row.serial for row in record.rows], dtype=np.int32))
    job.hosts = replace(
        hosts,
        state=put(hosts.state, rows, [row.state for row in record.rows]),
        pid=put(hosts.pid, rows, [row.pid for row in record.rows]),
        host_pid=put(hosts.host_pid, rows, [row.host_pid for row in record.rows]),
        since_ms=put(hosts.since_ms, rows, [row.since_ns // NS_PER_MS for row in record.rows]),
    )
    _, ranks, times = bound_rows(job, record.rows)
    if len(ranks):
        job.rank_times = put(job.rank_times, ranks, times)


def hosts_reached(state: State, record: r.HostsReached) -> None:
    """Many processes have got as far. A phase that a rank never told of was reached by the time of the next one."""
    job = state.own_job(record.job)
    hosts = job.hosts
    told = (hosts.generation == record.generation) & hosts.live() & within(hosts.serial, record.serials)
    entered = told & (hosts.state != record.state)
    job.hosts = replace(
        hosts,
        state=np.where(told, np.uint8(record.state), hosts.state),
        since_ms=np.where(entered, record.at_ns // NS_PER_MS, hosts.since_ms),
    )
    if record.column == NONE or record.generation != job.generation:
        return
    ranks = hosts.rank[told & (hosts.rank != NONE)]
    times = job.rank_times.copy()
    if len(ranks) == len(times):
        for column in range(record.column + 1):
            np.copyto(times[:, column], record.at_ns, where=times[:, column] == 0)
    else:
        reached = times[ranks, : record.column + 1]
        times[ranks, : record.column + 1] = np.where(reached == 0, record.at_ns, reached)
    job.rank_times = times


def hosts_lost(state: State, record: r.HostsLost, at_ns: int) -> None:
    """Processes are lost with their nodes."""
    job = state.own_job(record.job)
    hosts = job.hosts
    lost = hosts.live() & within(hosts.serial, record.serials)
    job.hosts = replace(
        hosts,
        state=put(hosts.state, lost, RankState.LOST),
        since_ms=put(hosts.since_ms, lost, at_ns // NS_PER_MS),
    )


def hosts_forgotten(state: State, record: r.HostsForgotten) -> None:
    """Ended processes are thought of no more."""
    job = state.own_job(record.job)
    rows = job.hosts.rows(np.array(record.serials, dtype=np.int32))
    job.hosts = without(job.hosts, rows[rows != NONE])


def host_ended(state: State, record: r.HostEnded, at_ns: int) -> None:
    """A process has ended."""
    job = state.own_job(record.job)
    hosts = job.hosts
    row = hosts.row(record.serial)
    final = RankState.EXITED if record.exit.observed or record.exit.group_empty else RankState.LOST
    job.hosts = replace(
        hosts,
        state=put(hosts.state, row, final),
        since_ms=put(hosts.since_ms, row, at_ns // NS_PER_MS),
        empty=put(hosts.empty, row, record.exit.group_empty),
    )
    if record.exit.finished:
        job.result = {**job.result, **record.exit.result}
    elif record.exit.message:
        job.last_error = record.exit.message


def unbind(job: Job, ranks: list[int], serials: list[int]) -> None:
    """Take ranks from their processes; the processes stay known until they are reported empty."""
    rows = [row for row in (job.hosts.row(serial) for serial in serials) if row != NONE]
    job.rank_host = put(job.rank_host, ranks, NONE)
    job.hosts = replace(job.hosts, rank=put(job.hosts.rank, rows, NONE))
    job.changed_ranks = tuple(sorted({*job.changed_ranks, *ranks}))
