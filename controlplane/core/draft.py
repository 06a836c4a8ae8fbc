"""A decision in the making: records, effects and what to look at next. Collected by the parts of the machine."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from controlplane.core.audit import Change
from controlplane.core.checkpoints import StoragePolicy
from controlplane.core.effects import Effect, EffectKind
from controlplane.core.events import HostRow, NodeRows, Settle, ShardRow
from controlplane.core.fleet import Fleet
from controlplane.core.health.budget import ActionBudget
from controlplane.core.health.canaries import CanaryPolicy
from controlplane.core.health.catalogue import Catalogue
from controlplane.core.health.distrust import DistrustPolicy
from controlplane.core.health.stragglers import StragglerPolicy
from controlplane.core.health.suspicion import SuspicionPolicy
from controlplane.core.placement.spares import SparePlan
from controlplane.core.records import EffectsIssued, Record
from controlplane.core.recovery.phase_times import LadderPolicy
from controlplane.core.softstate import SoftState
from controlplane.core.spec import Violation
from controlplane.core.state import State
from controlplane.core.units import NS_PER_S, ms


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinePolicy:
    """Times in milliseconds.

    `checks_ms`: an agent must have checked its node within. `retry_ms`: before checks that failed are tried again, doubled
    each time up to `retry_most_ms`: what was out of order may be repaired at any time. `trial_ms`: first trial, a day, because
    one repaired node in five fails again within it; doubled with each repair of the same part within `memory_ms`, up to
    `trial_most_ms`. `pair_ms`: before a node comes back the path between it and others is tested in pairs, each within so long; 0:
    it is not. `pair_port`: the first of the ports that these tests listen on. `pair_wait_ms`: a node waits so long for others to
    be tested with. `pair_age_ms`: a new gang gets nodes that were tested so lately, the others are tested first; 0: whichever.
    """

    checks_ms: int = 1_800_000
    retry_ms: int = 600_000
    retry_most_ms: int = 1_800_000
    trial_ms: int = 86_400_000
    memory_ms: int = 7 * 86_400_000
    trial_most_ms: int = 7 * 86_400_000
    pair_ms: int = 0
    pair_port: int = 29_700
    pair_wait_ms: int = 120_000
    pair_age_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Site-wide settings of the decisions. Times in milliseconds.

    `orphan_grace_ms`: ranks run on this long without a controller. `effect_ms`: an agent must answer within;
    `fence_ms`: the same for a fence, which is asked for again after it.
    `patience_ms`: a lost rank waits this long for its node to be seen whole again before it moves to another.
    `queue_patience_ms`: after this long nothing of the same or a lower priority goes past a queued job any more.
    `hang_ms`: a running job that makes no step for so long, and for `hang_steps` of its usual step times, hangs. Where its
    ranks stand is asked sooner: once it has made none for `hang_times` its longest step of late, and for its median step and
    `hang_spreads` deviations, but not before `hang_floor_ms`; agents have `hang_gather_ms` to answer.
    `actions`: how many working nodes may be disturbed in a while. `distrust`: when our own lateness takes the meaning from
    silence. `catalogue`: what fault codes ask for.
    `ladder`: what recoveries are assumed to take. `canaries`: how often detection is tried. `stragglers`: which
    rank is slow. `checkpoints`: saves before planned stops, and how often what is stored is read back.
    """

    suspicion: SuspicionPolicy = field(default_factory=SuspicionPolicy)
    orphan_grace_ms: int = 600_000
    effect_ms: int = 120_000
    fence_ms: int = 45_000
    patience_ms: int = 6_000
    copies_wait_ms: int = 1_000
    hang_ms: int = 600_000
    hang_steps: int = 50
    hang_floor_ms: int = 10_000
    hang_times: float = 3.0
    hang_spreads: int = 20
    hang_gather_ms: int = 5_000
    max_active_jobs: int = 1_000
    queue_patience_ms: int = 600_000
    actions: ActionBudget = field(default_factory=ActionBudget)
    spares: SparePlan = field(default_factory=SparePlan)
    distrust: DistrustPolicy = field(default_factory=DistrustPolicy)
    ladder: LadderPolicy = field(default_factory=LadderPolicy)
    quarantine: QuarantinePolicy = field(default_factory=QuarantinePolicy)
    catalogue: Catalogue = field(default_factory=Catalogue)
    canaries: CanaryPolicy = field(default_factory=CanaryPolicy)
    stragglers: StragglerPolicy = field(default_factory=StragglerPolicy)
    checkpoints: StoragePolicy = field(default_factory=StoragePolicy)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an operator or agent gets back."""

    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that changes nothing. `code`: invalid, conflict, not_found, stale; `reason`: constant name for machines."""

    code: str
    reason: str
    message: str
    violations: tuple[Violation, ...] = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """A command that will be carried out: what it changes (None: a dry run, nothing) and the fields of its answer."""

    change: Change | None
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Draft:
    """Everything one step will return. Reads `state`, never changes it. `draw`: a random number in [0, 1) that the caller of
    the turn drew; what is made of it is written down, so that replay needs none."""

    state: State
    now_ns: int
    soft: SoftState
    policy: Policy
    draw: float = 0.0
    records: list[Record] = field(default_factory=list)
    follow: list[Settle] = field(default_factory=list)
    reply: Answer | Refusal | None = None
    gathered: NodeRows | None = None
    finished: str = ""
    _effects: list[Effect] = field(default_factory=list)

    @property
    def fleet(self) -> Fleet:
        """The fleet as it is before this step."""
        return self.state.fleet

    def heard_ns(self) -> np.ndarray:
        """(nodes,) int64: when each node was heard last, or when we began to listen, Unix ns."""
        heard: np.ndarray = np.maximum(self.soft.last_beat_ns(self.fleet.size), self.soft.trusted_since_ns())
        return heard

    def silence_s(self, heard_ns: np.ndarray) -> np.ndarray:
        """For how long nodes that were heard last at these moments are silent, without our own lag, s."""
        silence: np.ndarray = np.maximum(self.now_ns - heard_ns - self.soft.excused_ns(heard_ns), 0) / NS_PER_S
        return silence

    def excused_ns(self, since_ns: int) -> int:
        """How long this controller was late itself since a moment: deadlines that began then move by it."""
        return int(self.soft.excused_ns(np.array([since_ns], dtype=np.int64))[0])

    def write(self, record: Record) -> int:
        """Add a record; gives the journal revision that it will have."""
        self.records.append(record)
        return self.state.revision + len(self.records)

    def gather(self, node: str, hosts: tuple[HostRow, ...], shards: tuple[ShardRow, ...]) -> None:
        """Leave rows of a node to be judged with those of the nodes that report beside it."""
        if hosts or shards:
            self.gathered = NodeRows(node, hosts, shards)

    def settle(self, job: str) -> None:
        """Look at a job again once the records are applied."""
        if Settle(job) not in self.follow:
            self.follow.append(Settle(job))

    def effect(
        self,
        kind: EffectKind,
        target: str,
        *,
        job: str = "",
        generation: int = 0,
        items: tuple[str, ...] = (),
        grace_ms: int = 0,
        full: bool = False,
        nodes: tuple[str, ...] = (),
        timeout_ms: int = 0,
    ) -> str:
        """Ask for something to be done outside once the records are durable. Returns the effect's id."""
        number = self.state.next_effect + len(self._effects)
        usual = self.policy.fence_ms + grace_ms if kind is EffectKind.FENCE_HOSTS else self.policy.effect_ms
        deadline = self.now_ns + ms(timeout_ms or usual)
        effect = Effect(f"e{number}", kind, target, deadline, job, generation, items, grace_ms, full, nodes)
        self._effects.append(effect)
        return effect.id

    def finish(self) -> None:
        """Close the draft: the effects become one record, last."""
        if self._effects:
            self.records.append(EffectsIssued(tuple(self._effects)))
            self._effects = []
