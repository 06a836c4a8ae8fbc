"""What the book keeps of a node, a job and a checkpoint: one line each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from controlplane.core.spec import JobSpec
from controlplane.core.vocabulary import CheckpointState, JobState, NodeLiveness

Place = tuple[int, tuple[int, ...]]
"""Node number and device positions of a rank."""


@dataclass(slots=True)
class NodeLine:
    """One node. `labels`: of its failure domains, by kind; `cordons`: owner -> whether it drains; `states`: of its devices by
    position, 0 where there is none. `away`: in health's hands, why it is not at work; "" when it is. `on_trial`: it works on
    trial. `path_broken`: believed ALIVE only because its ranks still make steps."""

    name: str
    labels: Mapping[str, str]
    boot_id: str = ""
    session: bool = False
    member: bool = False
    liveness: NodeLiveness = NodeLiveness.ALIVE
    cordons: dict[str, bool] = field(default_factory=dict)
    states: list[int] = field(default_factory=list)
    away: str = ""
    on_trial: bool = False
    path_broken: bool = False

    @property
    def rack(self) -> str:
        """Its rack, "" when it does not say."""
        return self.labels.get("rack", "")

    @property
    def devices(self) -> int:
        """How many accelerators it has."""
        return sum(1 for state in self.states if state)


@dataclass(slots=True)
class CheckpointLine:
    """One checkpoint. `owed`: ranks that must write a part; `shards`: rank -> generation of the process that wrote it;
    `suspected`: it is POISONED only because it was written under suspicion."""

    id: str
    generation: int
    step: int
    folder: str
    owed: frozenset[int]
    state: CheckpointState = CheckpointState.WRITING
    shards: dict[int, int] = field(default_factory=dict)
    suspected: bool = False
    pins: set[str] = field(default_factory=set)

    @property
    def restorable(self) -> bool:
        """Whether a generation may start from it."""
        return self.state in (CheckpointState.COMMITTED, CheckpointState.VERIFIED)


@dataclass(slots=True)
class JobLine:
    """One job. `places` and `hosts` by rank; `taking_part`: ranks of the newest generation; `held_ns`: device-nanoseconds
    that it has held so far; `doubt`: (first step, last generation) of a suspicion of silent corruption;
    `ruled`: the rule by which it was suspended, "" when none said so."""

    uid: str
    name: str
    spec: JobSpec
    submitted_ns: int
    state: JobState = JobState.QUEUED
    blocker: str = ""
    generation: int = 0
    places: list[Place] = field(default_factory=list)
    hosts: list[int] = field(default_factory=list)
    taking_part: frozenset[int] = frozenset()
    spares: tuple[int, ...] = ()
    next_host: int = 1
    checkpoints: dict[str, CheckpointLine] = field(default_factory=dict)
    held_ns: int = 0
    running_ns: int = 0
    doubt: tuple[int, int] | None = None
    ending: bool = False
    ended: bool = False
    end_reason: str = ""
    ruled: str = ""

    @property
    def whole(self) -> bool:
        """Whether it works and nothing is wrong with it."""
        return self.state is JobState.RUNNING and not self.ending

    @property
    def taking_part_now(self) -> frozenset[int]:
        """Ranks that have a place."""
        return frozenset(rank for rank, (node, _) in enumerate(self.places) if node >= 0)

    @property
    def devices(self) -> int:
        """How many accelerators its ranks hold now."""
        return 0 if self.ended else sum(len(positions) for node, positions in self.places if node >= 0)
