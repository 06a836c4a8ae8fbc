"""The table of rank hosts on this node: what each is, what it may say, and how it ended. No I/O, no clock.

Moments are seconds of the machine's monotonic clock, which goes on across restarts of the agent; on the wire they are
ages, because clocks of two machines are never compared.
"""

from __future__ import annotations

import hmac
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from phalanx.v1 import agent_pb2, local_pb2, types_pb2

ARCHIVE_LIMIT = 1024
AGE_LIMIT_MS = 366 * 24 * 3_600_000
NO_RANK = -1
_JOB_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_SERIAL = re.compile(r"[0-9]{1,9}")
_RANK_MAY_REPORT = frozenset(
    (
        types_pb2.RANK_STATE_STARTING,
        types_pb2.RANK_STATE_PARKED,
        types_pb2.RANK_STATE_JOINING,
        types_pb2.RANK_STATE_RESTORING,
        types_pb2.RANK_STATE_RUNNING,
        types_pb2.RANK_STATE_PAUSED,
    )
)
_HOLDS_NO_RANK = frozenset((types_pb2.RANK_STATE_STARTING, types_pb2.RANK_STATE_PARKED))


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something was refused. `kind` is a constant name to count by, `reason` a sentence for people."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """Who a rank host says it is, checked against the kernel's word by the caller."""

    host_id: str
    job_uid: str
    job_name: str
    host_pid: int
    host_start: int
    pid: int
    log_path: str
    contained: bool = False


@dataclass(frozen=True, slots=True)
class HeldAssignment:
    """The newest assignment given to a process; the token proves the generation on everything the rank says."""

    generation: int
    rank: int
    token: str
    accelerators: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Marker:
    """The workload said that it has finished, and with which result."""

    generation: int
    result: dict[str, str]


@dataclass(frozen=True, slots=True)
class ReachedAt:
    """Moments that a rank reached in its generation; 0.0: not yet."""

    joining: float = 0.0
    rendezvous: float = 0.0
    restored: float = 0.0
    first_step: float = 0.0

    @staticmethod
    def of(times: agent_pb2.GenerationTimes, now: float) -> ReachedAt:
        """Moments from the ages that the rank sent just now."""

        def moment(age_ms: int) -> float:
            return moment_of(age_ms, now) if age_ms else 0.0

        return ReachedAt(
            moment(times.joining_age_ms),
            moment(times.rendezvous_age_ms),
            moment(times.restored_age_ms),
            moment(times.first_step_age_ms),
        )

    def ages(self, now: float) -> agent_pb2.GenerationTimes:
        """The wire form at `now`."""

        def age(moment: float) -> int:
            return age_ms(moment, now) if moment else 0

        return agent_pb2.GenerationTimes(
            joining_age_ms=age(self.joining),
            rendezvous_age_ms=age(self.rendezvous),
            restored_age_ms=age(self.restored),
            first_step_age_ms=age(self.first_step),
        )


@dataclass(slots=True)
class HostRecord:
    """One rank host and its process.

    `state`, `rank` and `generation` are what the process obeys; `assigned` may already be newer. `lost` covers the
    state while host and rank are both silent although the host's process lives: unknown is not dead. `own_rows`: its rank
    library takes assignments without the rows of other nodes' ranks.
    """

    identity: HostIdentity
    serial: int
    state: types_pb2.RankState.ValueType = types_pb2.RANK_STATE_STARTING
    state_since: float = 0.0
    pid: int = 0
    rank: int = NO_RANK
    generation: int = 0
    assigned: HeldAssignment | None = None
    reached: ReachedAt = field(default_factory=ReachedAt)
    marker: Marker | None = None
    exit: types_pb2.ExitInfo | None = None
    fence_reason: str = ""
    lost: bool = False
    own_rows: bool = False

    @property
    def exited(self) -> bool:
        """Whether its process has ended; processes of its session may be left until `exit.group_empty`."""
        return self.state == types_pb2.RANK_STATE_EXITED

    @property
    def empty(self) -> bool:
        """Whether it has exited and no process of its session is left."""
        return self.exited and self.exit is not None and self.exit.group_empty

    def row(self, now: float) -> agent_pb2.HostStatus:
        """What the controller is told."""
        return agent_pb2.HostStatus(
            host_id=self.identity.host_id,
            job_uid=self.identity.job_uid,
            state=types_pb2.RANK_STATE_LOST if self.lost and not self.exited else self.state,
            rank=self.rank,
            generation=self.generation,
            pid=self.pid,
            host_pid=self.identity.host_pid,
            age_ms=age_ms(self.state_since, now),
            exit=self.exit if self.exited else None,
            times=self.reached.ages(now),
            log_path=self.identity.log_path,
        )


@dataclass(frozen=True, slots=True)
class ArchivedHost:
    """What stays of a host that the controller has told us to forget: enough to show its log and refuse its id."""

    host_id: str
    job_uid: str
    rank: int
    generation: int
    log_path: str


def well_formed(host_id: str, job_uid: str) -> bool:
    """Whether an id is `<job_uid>-<serial>`: a controller refuses a whole report for one row whose id is not."""
    uid, _, serial = host_id.rpartition("-")
    return uid == job_uid and _JOB_UID.fullmatch(uid) is not None and _SERIAL.fullmatch(serial) is not None


def moment_of(age_ms: int, now: float) -> float:
    """The moment, on our clock, of what a process says was `age_ms` ago; beyond a year every age is the same."""
    return now - min(age_ms, AGE_LIMIT_MS) / 1000


def age_ms(moment: float, now: float) -> int:
    """Milliseconds since `moment`, at least 1, because 0 means "not yet" on the wire."""
    return max(1, round((now - moment) * 1000))


class HostTable:
    """All rank hosts of the node, by host id."""

    def __init__(self) -> None:
        self.records: dict[str, HostRecord] = {}
        self.archive: OrderedDict[str, ArchivedHost] = OrderedDict()
        self.next_serial = 1

    def __iter__(self) -> Iterator[HostRecord]:
        return iter(self.records.values())

    def get(self, host_id: str) -> HostRecord | None:
        """The record, or None for an id that is not known or already forgotten."""
        return self.records.get(host_id)

    def ended_before(self, host_id: str) -> bool:
        """Whether this id's end is already on record: a process that comes with it now comes too late."""
        record = self.records.get(host_id)
        return host_id in self.archive or (record is not None and record.empty)

    def register_host(self, identity: HostIdentity, now: float) -> Refusal | None:
        """A rank host said hello, for the first time or again."""
        record = self.records.get(identity.host_id)
        if record is None:
            self.records[identity.host_id] = HostRecord(
                identity=identity, serial=self.next_serial, state_since=now, pid=identity.pid
            )
            self.next_serial += 1
            return None
        known = record.identity
        if (known.host_pid, known.host_start) != (identity.host_pid, identity.host_start):
            return Refusal(
                "second_process",
                f"host {identity.host_id} is already process {known.host_pid}, not {identity.host_pid}",
            )
        record.identity = identity
        record.lost = False
        if identity.pid:
            record.pid = identity.pid
        return None

    def register_rank(self, host_id: str, pid: int) -> Refusal | None:
        """A rank process said hello, for the first time or again; its status is judged separately."""
        record = self.records.get(host_id)
        if record is None:
            return Refusal("unknown_host", f"host {host_id} has not registered")
        if record.exited:
            return Refusal("exited", f"host {host_id} has exited")
        record.lost = False
        record.pid = pid
        return None

    def apply_status(self, status: local_pb2.RankStatus, newest_generation: int, now: float) -> Refusal | None:
        """Take over what a rank says of itself if its token is that of its newest assignment.

        `newest_generation` is the newest of the job that this node has seen. A process whose assignment is not on
        record (the agent's files were lost) is believed if it does not contradict that: it has proved who it is.
        """
        record = self.records.get(status.host_id)
        if record is None or record.exited:
            return Refusal("exited", f"host {status.host_id} has exited")
        if status.state not in _RANK_MAY_REPORT:
            return Refusal("state", f"a rank does not report state {status.state} itself")
        speaks_of_one = status.generation > 0 and status.rank >= 0 and status.token
        if record.assigned is None and speaks_of_one and status.generation >= newest_generation:
            record.assigned = HeldAssignment(status.generation, status.rank, status.token)
        if status.generation == 0 and not status.token and record.generation == 0:
            if status.state not in _HOLDS_NO_RANK:
                return Refusal("state", f"state {status.state} needs an assignment, and this process has taken none")
            self._enter(record, status.state, now)
            return None
        refusal = self.check_token(record, status.generation, status.token)
        if refusal is not None:
            return refusal
        assert record.assigned is not None  # check_token refuses a process without assignment
        record.rank = record.assigned.rank
        record.generation = status.generation
        record.reached = ReachedAt.of(status.times, now)
        self._enter(record, status.state, now)
        return None

    def check_token(self, record: HostRecord, generation: int, token: str) -> Refusal | None:
        """Whether the rank speaks for its newest assignment."""
        host_id = record.identity.host_id
        assigned = record.assigned
        if assigned is None:
            return Refusal(
                "no_assignment", f"host {host_id} holds no assignment, but speaks of generation {generation}"
            )
        refusal = self.check_generation(record, generation)
        if refusal is not None:
            return refusal
        if not hmac.compare_digest(assigned.token.encode(), token.encode()):
            return Refusal("wrong_token", f"host {host_id} sent a wrong token for generation {generation}")
        return None

    def check_generation(self, record: HostRecord, generation: int) -> Refusal | None:
        """Whether the rank speaks of its newest assignment; for messages that carry no token."""
        newest = record.assigned.generation if record.assigned is not None else 0
        if generation < newest:
            return Refusal(
                "older_generation",
                f"host {record.identity.host_id} speaks of generation {generation}, its newest assignment is {newest}",
            )
        if generation > newest:
            return Refusal(
                "unknown_generation",
                f"host {record.identity.host_id} speaks of generation {generation}, but was given {newest}",
            )
        return None

    def assign(self, host_id: str, assignment: HeldAssignment) -> None:
        """Give a living process its newest assignment; a repeat of the same generation keeps the token it has."""
        record = self.records[host_id]
        held = record.assigned
        if held is not None and (held.generation, held.rank) == (assignment.generation, assignment.rank):
            return
        record.assigned = assignment

    def bindable(self, host_id: str, job_uid: str) -> Refusal | None:
        """Whether a rank of the job can be bound to this host."""
        record = self.records.get(host_id)
        if record is None:
            return Refusal("unknown_host", f"host {host_id} is not known on this node")
        if record.exited or record.fence_reason:
            return Refusal("exited", f"host {host_id} has exited or is being fenced")
        if record.identity.job_uid != job_uid:
            return Refusal("other_job", f"host {host_id} belongs to job {record.identity.job_uid}, not to {job_uid}")
        return None

    def final_marker(self, marker: local_pb2.FinalMarker) -> Refusal | None:
        """The workload has finished."""
        record = self.records.get(marker.host_id)
        if record is None or record.exited:
            return Refusal("exited", f"host {marker.host_id} has exited")
        refusal = self.check_token(record, marker.generation, marker.token)
        if refusal is None:
            record.marker = Marker(marker.generation, dict(marker.result))
        return refusal

    def exit_seen(self, host_id: str, exit_info: types_pb2.ExitInfo, moment: float) -> None:
        """The process's end was observed (by its rank host) or concluded (because host and process are gone).

        An observed end replaces a concluded one, never the other way round.
        """
        record = self.records[host_id]
        if record.exit is not None and (record.exit.observed or not exit_info.observed):
            return
        completed = types_pb2.ExitInfo()
        completed.CopyFrom(exit_info)
        completed.group_empty = record.empty
        marker = record.marker
        if marker is not None and record.assigned is not None and marker.generation == record.assigned.generation:
            completed.final_marker = True
            completed.result.update(marker.result)
        if record.fence_reason:
            completed.sender = types_pb2.ExitInfo.SENDER_AGENT
            completed.message = completed.message or f"fenced: {record.fence_reason}"
        elif completed.observed and completed.signal and not completed.sender:
            completed.sender = types_pb2.ExitInfo.SENDER_UNKNOWN
        record.exit = completed
        if not record.fence_reason:
            # A fenced host is reported EXITED only when its group is empty.
            self._enter(record, types_pb2.RANK_STATE_EXITED, moment)

    def group_empty(self, host_id: str, now: float) -> None:
        """No process of the host's session is left: only now may its accelerators be used again."""
        record = self.records[host_id]
        if record.exit is None:
            self.exit_seen(host_id, types_pb2.ExitInfo(observed=False), now)
        assert record.exit is not None  # exit_seen has set it
        record.exit.group_empty = True
        self._enter(record, types_pb2.RANK_STATE_EXITED, now)

    def add_absent(self, host_id: str, reason: str, now: float) -> None:
        """Record a fenced host that this node has never seen and of which no process is left."""
        identity = HostIdentity(host_id, host_id.rpartition("-")[0], "", 0, 0, 0, "")
        self.records[host_id] = HostRecord(
            identity=identity, serial=self.next_serial, state_since=now, fence_reason=reason
        )
        self.next_serial += 1
        self.group_empty(host_id, now)

    def forget(self, host_ids: Iterable[str]) -> list[str]:
        """Drop hosts whose end the controller has recorded; returns those that still may have processes."""
        kept = []
        for host_id in host_ids:
            record = self.records.get(host_id)
            if record is None:
                continue
            if not record.empty:
                kept.append(host_id)
                continue
            del self.records[host_id]
            self._archive(record)
        return kept

    def newest_of_rank(self, job_uid: str, rank: int) -> ArchivedHost | None:
        """The newest process that holds or held a rank, forgotten ones included."""
        best: tuple[int, int] = (-1, -1)
        chosen: ArchivedHost | None = None
        for position, old in enumerate(self.archive.values()):
            if old.job_uid == job_uid and old.rank == rank and (old.generation, position - len(self.archive)) > best:
                best, chosen = (old.generation, position - len(self.archive)), old
        for record in self.records.values():
            view = archived(record)
            if view.job_uid == job_uid and view.rank == rank and (view.generation, record.serial) > best:
                best, chosen = (view.generation, record.serial), view
        return chosen

    def _archive(self, record: HostRecord) -> None:
        self.archive[record.identity.host_id] = archived(record)
        while len(self.archive) > ARCHIVE_LIMIT:
            self.archive.popitem(last=False)

    @staticmethod
    def _enter(record: HostRecord, state: types_pb2.RankState.ValueType, moment: float) -> None:
        if record.state != state:
            record.state = state
            record.state_since = moment


def archived(record: HostRecord) -> ArchivedHost:
    """The part of a record that stays after it was forgotten."""
    held = record.assigned
    return ArchivedHost(
        host_id=record.identity.host_id,
        job_uid=record.identity.job_uid,
        rank=held.rank if held is not None else record.rank,
        generation=held.generation if held is not None else record.generation,
        log_path=record.identity.log_path,
    )
