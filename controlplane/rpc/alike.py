"""Reports of many nodes that say the same of the processes of a large job: folded into a few events in columns.

A gang of 50,000 ranks tells of each phase within a second, from 6,250 nodes. Judged row by row that is more than a core can do
beside the beats. A report that tells only that living processes are where a generation takes them waits a moment for others
like it; all are compared with the state at once, and become `HostsReached`. What is in any way different is judged by itself,
as before. Ranks of one event have one moment, which is right to `SAME_NS`; jobs for which that would matter are not folded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from phalanx.v1 import agent_pb2
from phalanx.v1 import types_pb2 as pb

from controlplane.core.draft import Refusal
from controlplane.core.events import HostsReached
from controlplane.core.jobs import NONE, Job, split_host_id
from controlplane.core.ranges import runs
from controlplane.core.units import NS_PER_MS, ms
from controlplane.core.vocabulary import RankState
from controlplane.rpc.site import Outcome, Site

FOLDED_RANKS = 1_024
"""Ranks of a job from which on its reports are folded: below it they cost little, and each has its own milliseconds."""

TOGETHER_S = 0.05
"""How long reports wait for each other."""

SAME_NS = ms(50)
"""Moments in one event are no further apart."""

MOST_ROWS = 8_192
"""Rows that wait at most."""

LARGEST_MS = 1 << 38
"""Ages above it (eight years) are judged by themselves."""

FOLDED_FIELDS = frozenset({"sequence", "hosts"})
"""What a report that is folded tells, no less and no more. A field that is new to reports is judged by itself."""

FOLDED_OF_HOST = frozenset(
    {"host_id", "job_uid", "state", "rank", "generation", "pid", "host_pid", "age_ms", "times", "log_path"}
)
"""What is told of a process that is folded; the place of its log was told when it parked. A test holds this against the message:
a field that is new there has to be looked at in `_rows_of`, or belongs here."""

SOURCE = "agents"

_STATES = frozenset({pb.RANK_STATE_JOINING, pb.RANK_STATE_RESTORING, pb.RANK_STATE_RUNNING})
_SERIAL, _RANK, _STATE, _PID, _HOST_PID, _AGE, _TIMES = 0, 1, 2, 3, 4, 5, 6


class Teller(Protocol):
    """The session of a node agent. `told_ns`: the moment of the newest event that its processes are part of, Unix ns."""

    ended: bool
    told_ns: int

    @property
    def number(self) -> int:
        """The node's row in the fleet."""
        ...

    def durable(self, sequence: int) -> None:
        """All reports up to this one are."""
        ...

    def report_alone(self, message: agent_pb2.Report) -> None:
        """Have a report judged row by row."""
        ...


@dataclass(slots=True)
class _Told:
    """Reports on one generation of one job; each row has the index of its report."""

    generation: int
    reports: list[tuple[Teller, agent_pb2.Report]] = field(default_factory=list)
    rows: list[tuple[int, ...]] = field(default_factory=list)
    of: list[int] = field(default_factory=list)
    now_ns: list[int] = field(default_factory=list)


class AlikeReports:
    """Lives on the edge's loop."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._jobs: dict[str, _Told] = {}
        self._tellers: set[Teller] = set()
        self._rows = 0
        self._due: asyncio.TimerHandle | None = None

    def take(self, teller: Teller, message: agent_pb2.Report, now_ns: int) -> bool:
        """Keep a report for a moment, if it may be like others. The teller has nothing else on its way to the brain, and nothing
        here (`tell_of`)."""
        found = self._rows_of(message)
        if found is None:
            return False
        job, rows = found
        told = self._jobs.get(job.uid)
        if told is not None and told.generation != job.generation:
            self.tell()
            told = None
        if told is None:
            told = self._jobs[job.uid] = _Told(job.generation)
        told.of += [len(told.reports)] * len(rows)
        told.now_ns += [now_ns] * len(rows)
        told.rows += rows
        told.reports.append((teller, message))
        self._tellers.add(teller)
        self._rows += len(rows)
        if self._rows >= MOST_ROWS:
            self.tell()
        elif self._due is None:
            self._due = self._site.loop.call_later(TOGETHER_S, self.tell)
        return True

    def tell_of(self, teller: Teller) -> None:
        """A node says something that comes after a report: that is told first."""
        if teller in self._tellers:
            self.tell()

    def tell(self) -> None:
        """Tell the brain what has come so far."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        jobs, self._jobs, self._rows = self._jobs, {}, 0
        self._tellers.clear()
        for uid, told in jobs.items():
            job = self._site.state.jobs.get(uid)
            columns = None if job is None or job.terminal or job.generation != told.generation else _Columns(job, told)
            alone = set(range(len(told.reports))) if columns is None else columns.alone
            if columns is not None and len(alone) < len(told.reports):
                alike = [report for index, report in enumerate(told.reports) if index not in alone]
                events = [(event, self._site.post(event)) for event in columns.events()]
                self._site.spawn(self._deliver(events, alike))
            for index in sorted(alone):
                teller, message = told.reports[index]
                if not teller.ended:
                    teller.report_alone(message)

    def _rows_of(self, message: agent_pb2.Report) -> tuple[Job, list[tuple[int, ...]]] | None:
        """The job that a report tells of and its rows; None: it says more than that living processes have got further."""
        hosts = message.hosts
        if message.full or not hosts or {part.name for part, _ in message.ListFields()} != FOLDED_FIELDS:
            return None
        parts = split_host_id(hosts[0].host_id)
        job = self._site.state.jobs.get(parts[0]) if parts else None
        if job is None or job.terminal or job.spec.ranks < FOLDED_RANKS:
            return None
        rows: list[tuple[int, ...]] = []
        for host in hosts:
            parts, state, times = split_host_id(host.host_id), host.state, host.times
            if (
                parts is None
                or parts[0] != job.uid
                or host.generation != job.generation
                or state not in _STATES
                or host.HasField("exit")
            ):
                return None
            row = (
                parts[1], host.rank, state, host.pid, host.host_pid, host.age_ms,
                times.joining_age_ms, times.rendezvous_age_ms, times.restored_age_ms, times.first_step_age_ms,
            )  # fmt: skip
            if max(row) > LARGEST_MS:
                return None
            rows.append(row)
        return job, rows

    async def _deliver(
        self,
        events: list[tuple[HostsReached, asyncio.Future[Outcome] | None]],
        alike: list[tuple[Teller, agent_pb2.Report]],
    ) -> None:
        """Until all of it is durable, or of no interest any more; then those who told of it may forget it."""
        for event, answer in events:
            outcome = None if answer is None else await answer
            if answer is None or (isinstance(outcome, Refusal) and outcome.code == "unavailable"):
                await self._site.tell_until_durable(event)
        for teller, message in alike:
            teller.durable(message.sequence)


class _Columns:
    """Rows of one job beside what is known of its processes."""

    def __init__(self, job: Job, told: _Told) -> None:
        self._job = job
        rows = np.array(told.rows, dtype=np.int64)
        self._serials, self._states = rows[:, _SERIAL], rows[:, _STATE]
        self._nodes = np.array([teller.number for teller, _ in told.reports], dtype=np.int64)[told.of]
        self._columns = _columns(self._states, rows[:, _TIMES:])
        ages_ms = rows[np.arange(len(rows)), _TIMES + self._columns]
        of = self._of = np.array(told.of)
        self._tellers = [teller for teller, _ in told.reports]
        said_ns = np.array([teller.told_ns for teller in self._tellers], dtype=np.int64)[of]
        self._at_ns = np.maximum(np.array(told.now_ns, dtype=np.int64) - ages_ms * NS_PER_MS, said_ns)
        alike = self._known(rows) & self._moments_fit(rows, ages_ms)
        gone = np.array([teller.ended for teller in self._tellers])[of]
        self.alone = {*of[~alike | gone].tolist()}
        """Reports that are to be judged by themselves."""
        self._mask = ~np.isin(of, list(self.alone))

    def _known(self, rows: np.ndarray) -> np.ndarray:
        """Mask over rows: the process lives there, with that rank, and is the one that we think it is."""
        hosts = self._job.hosts
        if not len(hosts.serial):
            return np.zeros(len(rows), dtype=np.bool_)
        at = hosts.rows(np.minimum(self._serials, np.iinfo(np.int32).max).astype(np.int32))
        same = (at != NONE) & (hosts.node[at] == self._nodes) & (hosts.state[at] < RankState.EXITED)
        same &= (hosts.generation[at] == self._job.generation) & (hosts.rank[at] == rows[:, _RANK])
        same &= (hosts.pid[at] == rows[:, _PID]) & (hosts.host_pid[at] == rows[:, _HOST_PID])
        self._at_ns = np.maximum(self._at_ns, ms(1) * hosts.since_ms[at])
        mask: np.ndarray = same & (rows[:, _RANK] >= 0)
        return mask

    def _moments_fit(self, rows: np.ndarray, ages_ms: np.ndarray) -> np.ndarray:
        """Mask over rows: moments before the one that is told of are known, or are the same; there is none after it."""
        times_ms = rows[:, _TIMES:]
        each = np.arange(times_ms.shape[1])
        ranks = np.clip(rows[:, _RANK], 0, len(self._job.rank_times) - 1)
        near = np.abs(times_ms - ages_ms[:, None]) * NS_PER_MS <= SAME_NS
        before = (self._job.rank_times[ranks] > 0) | ((times_ms > 0) & near)
        earlier, later = each < self._columns[:, None], each > self._columns[:, None]
        mask: np.ndarray = (ages_ms > 0) & (before | ~earlier).all(axis=1) & ((times_ms == 0) | ~later).all(axis=1)
        return mask

    def events(self) -> Iterator[HostsReached]:
        """One for each state and moment, the earlier ones first. What a node told later is never told as of an earlier moment,
        however its messages were held up: it would be passed over."""
        job = self._job
        serials, nodes, at_ns = self._serials[self._mask], self._nodes[self._mask], self._at_ns[self._mask]
        reports = self._of[self._mask]
        keys = np.column_stack((self._columns[self._mask], at_ns // SAME_NS, self._states[self._mask]))
        alike, of = np.unique(keys, axis=0, return_inverse=True)
        for number, (column, _, state) in enumerate(alike.tolist()):
            here = of.ravel() == number
            moment_ns = int(at_ns[here].max())
            for report in np.unique(reports[here]).tolist():
                self._tellers[report].told_ns = max(self._tellers[report].told_ns, moment_ns)
            yield HostsReached(
                SOURCE, job.uid, job.generation, RankState(state), runs(np.sort(serials[here])), moment_ns, column,
                runs(np.unique(nodes[here])),
            )  # fmt: skip


def _columns(states: np.ndarray, times_ms: np.ndarray) -> np.ndarray:
    """The moment of `Job.rank_times` that each row tells of."""
    found = np.zeros(len(states), dtype=np.int64)
    found[states == pb.RANK_STATE_RESTORING] = 1
    found[(states == pb.RANK_STATE_RESTORING) & (times_ms[:, 2] > 0)] = 2
    found[states == pb.RANK_STATE_RUNNING] = 3
    return found
