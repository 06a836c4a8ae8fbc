"""A job: its specification, its current generation as columns over ranks, and its processes as columns over hosts."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from operator import attrgetter

import numpy as np

from controlplane.core.accounting.pace import Pace
from controlplane.core.accounting.window import Hour
from controlplane.core.checkpoints import Checkpoint, SaveFirst, SaveTrouble, Suspicion
from controlplane.core.columns import ByteColumn, IntColumn
from controlplane.core.evidence import NOTHING, Facts
from controlplane.core.health.numbers import Numbers
from controlplane.core.spec import AUTO, JobSpec
from controlplane.core.vocabulary import TERMINAL, Blame, Bucket, JobState, Phase, RankState

NONE = -1
"""No node, no host, no rank."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended, as witnessed. `observed` false: gone, and nobody saw its status."""

    observed: bool
    code: int = 0
    signal: int = 0
    sender: str = ""
    final_marker: bool = False
    message: str = ""
    group_empty: bool = False
    result: dict[str, str] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Exit 0 counts only with the final marker."""
        return self.observed and self.code == 0 and self.signal == 0 and self.final_marker


@dataclass(frozen=True)
class Hosts:
    """Rank hosts of a job as parallel columns, ascending by `serial`. `rank` NONE: parked or on the way there.
    What is derived from the columns and asked for at every look is kept with them.

    `since_ms` is the time the state was entered, in Unix milliseconds.
    """

    serial: IntColumn
    node: IntColumn
    state: ByteColumn
    rank: IntColumn
    generation: IntColumn
    pid: IntColumn
    host_pid: IntColumn
    since_ms: np.ndarray
    empty: ByteColumn

    @staticmethod
    def none() -> Hosts:
        """No hosts."""
        zero = np.zeros(0, dtype=np.int32)
        byte = np.zeros(0, dtype=np.uint8)
        return Hosts(zero, zero, byte, zero, zero, zero, zero, np.zeros(0, dtype=np.int64), byte)

    def row(self, serial: int) -> int:
        """Row of a host, NONE when unknown."""
        at = int(self.serial.searchsorted(np.int32(serial)))  # another width would convert the whole column
        return at if at < len(self.serial) and self.serial[at] == serial else NONE

    def rows(self, serials: np.ndarray) -> np.ndarray:
        """Rows of hosts by serial, NONE where unknown."""
        if not len(self.serial):
            return np.full(len(serials), NONE, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.serial, serials), len(self.serial) - 1)
        return np.where(self.serial[at] == serials, at, NONE)

    @cached_property
    def coming(self) -> np.ndarray:
        """Rows of processes on their way to the barrier."""
        return np.flatnonzero((self.generation == 0) & (self.state == RankState.STARTING))

    @cached_property
    def paused(self) -> np.ndarray:
        """Rows of processes that hold a rank and cannot go on."""
        return np.flatnonzero((self.state == RankState.PAUSED) & (self.rank != NONE))

    def gone(self) -> np.ndarray:
        """Mask of hosts of which nothing is left, as their node agent said."""
        mask: np.ndarray = (self.state == RankState.EXITED) & (self.empty == 1)
        return mask

    def live(self) -> np.ndarray:
        """Mask of hosts whose process has not ended."""
        mask: np.ndarray = self.state < RankState.EXITED  # EXITED and LOST come last
        return mask


@dataclass(frozen=True, slots=True)
class LostRank:
    """One rank that a running incident has taken, with the evidence in words and as facts. `planned`: an operator wanted it
    (a restart, a drain)."""

    rank: int
    serial: int
    cause: str
    blame: Blame
    fault_ns: int
    evidence: str
    consequence: bool = False
    planned: bool = False
    facts: Facts = NOTHING


PEER_LOST_EXIT = 75
"""Exit code of a rank that gave up waiting for a new generation: a consequence, never a cause."""


def root_cause(lost: tuple[LostRank, ...]) -> LostRank | None:
    """The earliest loss that is not itself a consequence of another; the earliest of all when every one is. What failed goes
    before what an operator wanted."""
    own = [entry for entry in lost if not entry.consequence]
    failed = [entry for entry in own if not entry.planned]
    return min(failed or own or lost, key=lambda entry: (entry.fault_ns, entry.rank), default=None)


@dataclass(frozen=True, slots=True)
class Incident:
    """Failures that are handled together, from the first fault to the first new step.

    Times are Unix ns; 0: not reached. `collect_until_ns`: failures until then are judged together. `step_known`: somebody
    has told steps since the job ran. `why`: constant name of what happened when no rank was lost. `released`: an operator
    lets the job go on whatever rule suspended it. `records`: journal revisions of what opened and widened it.
    `ledger`: the one that the newest verdict names. `intact`: nobody lost
    a process or its state. `spent_rungs` did not lead to a new step, `spent_nodes` did not bring their ranks up: neither is
    tried again before a dearer rung. `charged_generation`: the generation in force when a ledger paid last. `warm`: every
    lost rank finds a parked process. `deadline_ns`: the rung that was decided has failed when no step is made until then.
    """

    fault_ns: int
    detected_ns: int
    collect_until_ns: int
    lost: tuple[LostRank, ...]
    step: int
    cause: str
    decided_ns: int = 0
    placed_ns: int = 0
    rung: str = ""
    reason: str = ""
    attempts: int = 0
    step_known: bool = True
    why: str = ""
    released: bool = False
    records: tuple[int, ...] = ()
    ledger: str = ""
    intact: bool = False
    spent_rungs: tuple[str, ...] = ()
    spent_nodes: tuple[int, ...] = ()
    charged_generation: int = NONE
    warm: bool = False
    deadline_ns: int = 0


@dataclass(frozen=True, slots=True)
class GenerationClock:
    """When all ranks of the current generation had reached a phase, Unix ns; 0: not yet."""

    announced_ns: int = 0
    joining_ns: int = 0
    rendezvous_ns: int = 0
    restored_ns: int = 0
    running_ns: int = 0


def phases_of(incident: Incident, clock: GenerationClock) -> dict[str, int]:
    """Nanoseconds of each phase that a recovery has reached: differences of consecutive moments. `clock`: of the job's current
    generation, which is the incident's own once it has been placed."""
    own = clock if incident.placed_ns else GenerationClock()
    moments = (
        (Phase.DETECT, incident.detected_ns),
        (Phase.DECIDE, incident.decided_ns),
        (Phase.PLACE, incident.placed_ns),
        (Phase.START, own.joining_ns),
        (Phase.RENDEZVOUS, own.rendezvous_ns),
        (Phase.RESTORE, own.restored_ns),
        (Phase.FIRST_STEP, own.running_ns),
    )
    phases: dict[str, int] = {}
    before = incident.fault_ns
    for phase, moment in moments:
        if moment:
            phases[phase.value] = max(0, moment - before)
            before = max(before, moment)
    return phases


@dataclass(frozen=True, slots=True)
class Recovery:
    """A finished (or overtaken) recovery, for people and reports. Durations in nanoseconds by phase.

    `warm`: it found parked processes. `participants`: ranks of the generation that it led to; 0: all.
    `restored_from`: ranks by the tier that they took their state from, where not all read the checkpoint.
    """

    generation: int
    cause: str
    rung: str
    ranks: tuple[int, ...]
    steps_lost: int
    restore_step: int
    restore_id: str
    phases_ns: dict[str, int]
    overtaken: bool
    blame: str
    fault_ns: int
    warm: bool = False
    participants: int = 0
    restored_from: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class HangWatch:
    """A running job that makes no step since `since_ns` is looked at. `asked_ns`: when its agents were asked, by `effect` ("": that
    look is over); `again_ns`: when it is looked at again. Unix ns."""

    since_ns: int
    asked_ns: int
    effect: str
    again_ns: int = 0


@dataclass(frozen=True, slots=True)
class Restart:
    """One charge to a restart ledger, at a time and at a proven step."""

    blame: Blame
    at_ns: int
    step: int


@dataclass(slots=True)
class Job:
    """One job. Rank columns have `spec.ranks` rows; `rank_acc` is (ranks, accelerators per rank), positions on the node.
    A rank whose replica does not take part has no node (NONE) and no process: `present` masks those that do, and
    `participants` counts those of the current generation (0: all). `keeps_state`: its ranks go on with the state they hold.
    `rank_times` is (ranks, 4): Unix ns at which each rank of the current generation was joining, had its groups, had
    restored, had made its first step; 0: not yet. `failed_starts` counts rounds of starts, not processes: processes with
    serials below `failed_below` belong to a round that is counted already. `restore_limit`: until the job runs again it
    restores no newer step, NONE: any. `hung_step`: the newest step when ranks were last lost, or a generation given up, for a hang.
    `saving`: a save that a planned stop waits for, or has just waited for. `line`: (generation, step that it started from), see
    `core.recovery.line`.

    Mutable only while an apply works on its own clone; arrays and tuples inside are always replaced.
    """

    name: str
    uid: str
    serial: int
    spec: JobSpec
    state: JobState
    submitted_ns: int
    blocker: str = ""
    generation: int = 0
    rank_node: IntColumn = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    rank_acc: IntColumn = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int32))
    rank_host: IntColumn = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    rank_times: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), dtype=np.int64))
    hosts: Hosts = field(default_factory=Hosts.none)
    next_host: int = 1
    spare_nodes: tuple[int, ...] = ()
    changed_ranks: tuple[int, ...] = ()
    restore_id: str = ""
    restore_step: int = 0
    clock: GenerationClock = GenerationClock()
    incident: Incident | None = None
    recoveries: tuple[Recovery, ...] = ()
    restarts: tuple[Restart, ...] = ()
    not_before_ns: int = 0
    failed_starts: int = 0
    failed_below: int = 0
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    ending: JobState | None = None
    end_reason: str = ""
    ended_ns: int = 0
    result: dict[str, str] = field(default_factory=dict)
    ledger_ns: dict[str, int] = field(default_factory=dict)
    last_error: str = ""
    last_step: int = 0
    skipped_generations: int = 0
    suspicion: Suspicion | None = None
    restore_limit: int = NONE
    participants: int = 0
    keeps_state: bool = False
    hour: Hour = field(default_factory=Hour)
    pace: Pace = field(default_factory=Pace)
    restored_from: tuple[tuple[str, int], ...] = ()
    spares_wanted: int = 0
    spares_reason: str = ""
    every_steps: int = 0
    interval_reason: str = ""
    hang: HangWatch | None = None
    hung_step: int = NONE
    numbers: Numbers = field(default_factory=Numbers)
    saving: SaveFirst | None = None
    save_trouble: SaveTrouble | None = None
    line: tuple[tuple[int, int], ...] = ()
    _ranks_of: tuple[np.ndarray, np.ndarray] | None = field(default=None, init=False, repr=False, compare=False)

    def clone(self) -> Job:
        """A copy that shares every column and value. Made once for each job and turn: `copy.copy` takes four times as long."""
        copied = Job.__new__(Job)
        for name, value in zip(FIELDS, _VALUES(self), strict=True):
            setattr(copied, name, value)
        return copied

    @property
    def next_generation(self) -> int:
        """Number of the generation after this one: agents may have seen those that a restored journal has forgotten."""
        return self.generation + 1 + self.skipped_generations

    @property
    def terminal(self) -> bool:
        """Whether the job has ended for good."""
        return self.state in TERMINAL

    @property
    def wanted_spares(self) -> int:
        """Spare nodes that are to be held for it, the warm ones first: as the manifest says, or its share of the site's."""
        return self.warm_spares + self.spec.spares.cold_nodes

    @property
    def warm_spares(self) -> int:
        """How many of them are to be warm."""
        asked = self.spec.spares.warm_nodes
        return self.spares_wanted if asked == AUTO else asked

    @property
    def saves_every(self) -> int:
        """Steps between checkpoints in the present generation; 0: never."""
        asked = self.spec.checkpoint.every_steps
        return self.every_steps if asked == AUTO else asked

    @property
    def placed(self) -> bool:
        """Whether every rank has a place."""
        return len(self.rank_node) > 0

    @property
    def present(self) -> np.ndarray:
        """Mask over ranks that take part."""
        mask: np.ndarray = self.rank_node != NONE
        return mask

    @property
    def whole(self) -> bool:
        """Whether every replica takes part."""
        return bool(self.present.all())

    @property
    def unbound(self) -> np.ndarray:
        """Mask over ranks that take part and have no process."""
        mask: np.ndarray = (self.rank_host == NONE) & self.present
        return mask

    @property
    def devices(self) -> int:
        """Accelerators that the job holds now (ranks only, not spares)."""
        return int(np.count_nonzero(self.rank_node >= 0)) * self.spec.accelerators_per_rank if self.placed else 0

    def nodes(self) -> tuple[int, ...]:
        """Node numbers that hold ranks, ascending."""
        return tuple(np.flatnonzero(self.per_node()).tolist())

    def per_node(self) -> np.ndarray:
        """How many ranks stand on each node, by node number up to the highest with one. Not to be written to."""
        if self._ranks_of is None or self._ranks_of[0] is not self.rank_node:
            self._ranks_of = (self.rank_node, np.bincount(self.rank_node[self.rank_node >= 0]))
        return self._ranks_of[1]

    def bound(self, rank: int, generation: int, serial: int) -> bool:
        """Whether a process holds a rank of the current generation."""
        return rank >= 0 and generation == self.generation and int(self.rank_host[rank]) == serial

    def holds(self, ranks: np.ndarray, generations: np.ndarray, serials: np.ndarray) -> np.ndarray:
        """Mask over processes: see `bound`. Columns of equal length."""
        mask: np.ndarray = (ranks >= 0) & (generations == self.generation)
        mask[mask] = self.rank_host[ranks[mask]] == serials[mask]
        return mask

    def held_on(self, ranks: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """Mask over pairs of a rank and a node number: the rank is there, or one of its known processes is."""
        count = self.spec.ranks
        inside = (ranks >= 0) & (ranks < count) & self.placed
        there = inside.copy()
        there[inside] = self.rank_node[ranks[inside]] == nodes[inside]
        elsewhere = inside & ~there
        if elsewhere.any():
            known = self.hosts.rank != NONE
            pairs = self.hosts.node[known].astype(np.int64) * count + self.hosts.rank[known]
            there[elsewhere] = np.isin(nodes[elsewhere].astype(np.int64) * count + ranks[elsewhere], pairs)
        return there

    def host_rows(self) -> np.ndarray:
        """Row of the process that holds each rank, NONE for a rank without one."""
        rows = np.full(len(self.rank_host), NONE, dtype=np.int64)
        held = np.flatnonzero(self.hosts.rank != NONE)
        rows[self.hosts.rank[held]] = held
        return rows

    def bucket(self) -> Bucket:
        """Where the job's accelerator-seconds go right now."""
        if self.state is JobState.RUNNING:
            return Bucket.PRODUCTIVE
        if self.state is JobState.SUSPENDED:
            return Bucket.PAUSED
        clock = self.clock
        if self.incident is None or self.incident.placed_ns:  # else the clock is that of the generation that failed
            if clock.restored_ns and not clock.running_ns:
                return Bucket.DATA_LOADING
            if clock.rendezvous_ns and not clock.restored_ns and self.restore_step:
                return Bucket.CHECKPOINT_RESTORE
        return Bucket.RECOVERY if self.state is JobState.RECOVERING else Bucket.STARTUP


FIELDS = tuple(column.name for column in fields(Job))
"""Everything that a clone takes over."""
_VALUES = attrgetter(*FIELDS)


MAX_DIGITS = 10
"""A number from outside with as many digits is none of ours."""


def host_id(uid: str, serial: int) -> str:
    """Wire name of a host."""
    return f"{uid}-{serial}"


def split_host_id(name: str) -> tuple[str, int] | None:
    """(job uid, serial) of a host's wire name, None when it is not one of ours."""
    uid, _, tail = name.rpartition("-")
    return (uid, int(tail)) if uid and tail.isdecimal() and len(tail) < MAX_DIGITS else None
