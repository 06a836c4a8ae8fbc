"""What a user asks for: the specification of a job, as plain frozen values. Durations are integer milliseconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from controlplane.core.vocabulary import Blame

UNLIMITED = -1
"""`max` of a budget without a limit."""
AUTO = -1
"""Instead of a number: the controller finds it from what it has measured."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that was refused: where, why, and what to do."""

    path: str
    reason: str
    fix: str


@dataclass(frozen=True, slots=True)
class Workload:
    """The user's code. `args` is a canonical JSON object (sorted keys), handed over unchanged.

    Where the module comes from, at most one of: `path`, a folder that every node sees; `code_digest`, the archive of a
    shipped folder (`sha256:<hex>`); `image`, a container image with its digest. None: the installed packages.
    """

    module: str
    path: str = ""
    args: str = "{}"
    code_digest: str = ""
    image: str = ""


@dataclass(frozen=True, slots=True)
class Parallel:
    """Parallel degrees: tp x pp x cp x dp = ranks, and ep divides dp."""

    tp: int = 1
    pp: int = 1
    cp: int = 1
    dp: int = 0
    ep: int = 1

    def coordinates(self, rank: int) -> dict[str, int]:
        """Where a rank stands on each axis: tp varies fastest, then cp, dp, pp; ep is dp modulo its degree. The same
        arithmetic as the ranks' own (`agents.rank.assignment`)."""
        dp = rank // (self.tp * self.cp) % max(self.dp, 1)
        return {
            "tp": rank % self.tp,
            "cp": rank // self.tp % self.cp,
            "dp": dp,
            "pp": rank // (self.tp * self.cp * max(self.dp, 1)),
            "ep": dp % self.ep,
        }

    def state_of(self, rank: int) -> tuple[int, ...]:
        """What a rank holds of the model: ranks that agree in it hold the same."""
        at = self.coordinates(rank)
        return at["tp"], at["cp"], at["pp"], at["ep"]


@dataclass(frozen=True, slots=True)
class CheckpointPolicy:
    """Where and how often state is saved. `folder` "" means the site's default root; every_steps 0 means never, AUTO a number
    between `min_steps` and `max_steps`. `replicated`: data-parallel replicas hold the same state as a whole (no sharded
    optimizer), so that one of them is enough to restore the others. `resume_from`: a checkpoint of another job, or that job's name
    (its newest one), that the first generation starts from; "": from the start. `local_every_steps`: from one version on each
    node's own disk to the next; 0 means none.
    """

    folder: str = ""
    every_steps: int = 100
    keep: int = 3
    min_steps: int = 1
    max_steps: int = 10_000
    replicated: bool = False
    resume_from: str = ""
    local_every_steps: int = 50


@dataclass(frozen=True, slots=True)
class SparePolicy:
    """What is held back for a job: whole warm nodes (AUTO: its share of the site's pool, see `placement.spares`), parked
    processes on each node that runs ranks, and whole cold nodes, on which nothing is started before they are needed."""

    warm_nodes: int = 0
    parked_per_node: int = 0
    cold_nodes: int = 0


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `max` restarts in a sliding window; `reset_on_progress` steps of new progress give it back (0: never)."""

    max: int
    window_ms: int
    reset_on_progress: int = 0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waiting time before the n-th restart charged to the user: initial x factor^(n-1), at most `max_ms`; shortened by a
    random part of up to `jitter` (a share), so that jobs that failed together do not come back together."""

    initial_ms: int = 1_000
    factor: float = 2.0
    max_ms: int = 300_000
    jitter: float = 0.2


HOUR_MS = 3_600_000


class RuleAction(StrEnum):
    """What a job rule chooses. AUTO: the implicit last rule leaves the rung to the ladder; it cannot be written."""

    FAIL = "fail"
    RETRY_STEP = "retryStep"
    RESTART_RANK = "restartRank"
    REPLACE_RANK = "replaceRank"
    RESTART_JOB = "restartJob"
    ROLLBACK = "rollback"
    SUSPEND = "suspend"
    AUTO = "auto"


class NodeAction(StrEnum):
    """What a node rule does to the node on which an incident began."""

    QUARANTINE = "quarantineNode"
    CORDON = "cordonNode"


@dataclass(frozen=True, slots=True)
class Match:
    """Conditions on the root of an incident; all that are given must hold, none given holds always.

    `exit_codes`, `signals`: -1 is `unknown`. `message`: RE2 pattern, searched; the text `unknown` means that there was no
    message. `ranks`: first, last, all (of the job are lost) or ranges `0-3,8`. `coordinates`: (axis, allowed values).
    `of_rank`, `on_node`: at least so many incidents of the rank, or on the node, within `within_ms`, this one counted.
    """

    exit_codes: tuple[int, ...] = ()
    signals: tuple[int, ...] = ()
    senders: tuple[str, ...] = ()
    fault_levels: tuple[str, ...] = ()
    fault_codes: tuple[str, ...] = ()
    message: str = ""
    reasons: tuple[str, ...] = ()
    blames: tuple[Blame, ...] = ()
    ranks: str = ""
    coordinates: tuple[tuple[str, tuple[int, ...]], ...] = ()
    of_rank: int = 0
    on_node: int = 0
    within_ms: int = 0


@dataclass(frozen=True, slots=True)
class JobRule:
    """One job rule. `ledger` None: that of whom the loss is blamed on. `checkpoints` and `then_poison` are of ROLLBACK: so
    many of the newest checkpoints are passed over, and poisoned."""

    match: Match
    action: RuleAction
    ledger: Blame | None = None
    reason: str = ""
    checkpoints: int = 0
    then_poison: bool = False


@dataclass(frozen=True, slots=True)
class NodeRule:
    """One node rule."""

    match: Match
    action: NodeAction
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How often a job may be restarted, by who is to blame, how long failures are collected before deciding, and the rules
    that choose what is done. `retry_step`: the job says that its ranks keep their state when a collective fails, and can do
    the step again.
    """

    collect_window_ms: int = 200
    user: Budget = Budget(3, HOUR_MS, 200)
    infrastructure: Budget = Budget(200, 24 * HOUR_MS)
    preemption: Budget = Budget(UNLIMITED, HOUR_MS)
    backoff: Backoff = Backoff()
    job_rules: tuple[JobRule, ...] = ()
    node_rules: tuple[NodeRule, ...] = ()
    retry_step: bool = False


@dataclass(frozen=True, slots=True)
class Elastic:
    """How few data-parallel replicas a job may run with while there is no room for all; 0: it never runs with fewer."""

    min_replicas: int = 0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits of the phases of a start.

    `start_ms`: a process must be PARKED; `join_ms`: all ranks RUNNING after a generation was announced; `stop_ms`:
    SIGTERM to SIGKILL.
    """

    start_ms: int = 120_000
    join_ms: int = 60_000
    stop_ms: int = 10_000


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A `TrainingJob` manifest, complete with defaults. `muted_faults`: fault codes that do not take its ranks."""

    name: str
    workload: Workload
    ranks: int
    accelerators_per_rank: int = 1
    parallel: Parallel = Parallel()
    spares: SparePolicy = SparePolicy()
    checkpoint: CheckpointPolicy = CheckpointPolicy()
    restart_policy: RestartPolicy = RestartPolicy()
    timeouts: Timeouts = Timeouts()
    labels: tuple[tuple[str, str], ...] = ()
    priority: int = 0
    elastic: Elastic = Elastic()
    muted_faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedManifest:
    """Outcome of reading a manifest: a spec, or the violations (never both)."""

    spec: JobSpec | None
    violations: tuple[Violation, ...] = field(default=())
