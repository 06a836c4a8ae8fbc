"""What comes in: observations by agents and cells, commands by operators, and the passing of time. Plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

from controlplane.core.audit import By
from controlplane.core.checkpoints import ShardFile
from controlplane.core.evidence import Reason
from controlplane.core.fleet import Accelerator
from controlplane.core.identity import Role
from controlplane.core.jobs import NONE, Exit
from controlplane.core.ranges import Ranges
from controlplane.core.spec import JobSpec
from controlplane.core.vocabulary import Assertion, PairWord, RankState, SaveWord


@dataclass(frozen=True, slots=True)
class HostRow:
    """A node agent's view of one host. Times are Unix ns on our clock (converted from ages); 0: not reached."""

    job: str
    serial: int
    state: RankState
    rank: int
    generation: int
    pid: int = 0
    host_pid: int = 0
    since_ns: int = 0
    exit: Exit | None = None
    joining_ns: int = 0
    rendezvous_ns: int = 0
    restored_ns: int = 0
    first_step_ns: int = 0

    @property
    def times(self) -> tuple[int, int, int, int]:
        """The moments of `Job.rank_times`."""
        return self.joining_ns, self.rendezvous_ns, self.restored_ns, self.first_step_ns


@dataclass(frozen=True, slots=True)
class AcceleratorRow:
    """A node agent's view of one device, by position. With a fault code, `severity`, `assertion`, the source's `sequence` and
    `raised_ns` (Unix ns, 0: not said) tell of that fault."""

    index: int
    state: int
    device: Accelerator
    severity: str = ""
    assertion: Assertion = Assertion.OCCURRED
    sequence: int = 0
    raised_ns: int = 0


@dataclass(frozen=True, slots=True)
class FaultRow:
    """A fault event of any entity of a node: `node`, `accelerator/<position>`, `port/<position>`. See `AcceleratorRow`."""

    entity: str
    code: str
    vendor: str = ""
    severity: str = ""
    assertion: Assertion = Assertion.OCCURRED
    sequence: int = 0
    raised_ns: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A source of health that cannot be read, why, and the positions that it speaks for (empty: all of the node)."""

    name: str
    reason: str
    accelerators: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One rank's part of a checkpoint is on storage."""

    job: str
    generation: int
    step: int
    rank: int
    folder: str
    files: tuple[ShardFile, ...]
    save_stall_ns: int
    reached_ns: int


@dataclass(frozen=True, slots=True)
class RestoreFailedRow:
    """A rank could not use a file of its restore point."""

    job: str
    generation: int
    rank: int
    checkpoint: str
    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class SaveRow:
    """A rank could not save a step as it should, or cannot save on request (step 0)."""

    job: str
    generation: int
    step: int
    rank: int
    word: SaveWord
    reason: str


@dataclass(frozen=True, slots=True)
class CheckedRow:
    """Outcome of reading a checkpoint back."""

    job: str
    checkpoint: str
    ok: bool
    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class NodeHello:
    """An agent opened its session; rows are the whole truth of the node."""

    node: str
    boot_id: str
    labels: tuple[tuple[str, str], ...]
    address: str
    version: str
    hosts: tuple[HostRow, ...]
    accelerators: tuple[AcceleratorRow, ...]
    faults: tuple[FaultRow, ...] = ()
    unreadable: tuple[SourceRow, ...] = ()


@dataclass(frozen=True, slots=True)
class NodesJoined:
    """Agents of many new nodes opened their sessions at once, through a relay or as a site comes up: the same as a
    `NodeHello` each, for nodes that nobody knows yet and on which no process runs. All are welcome, or none."""

    hellos: tuple[NodeHello, ...]


@dataclass(frozen=True, slots=True)
class NodeReport:
    """Rows that changed, or all of them when `full`. `broken_links`: nodes that cannot be reached from here,
    `unreadable`: sources of health that cannot be read, each the whole truth; None: not said. `all_faults`: `faults` are all
    that stand, as in a hello."""

    node: str
    boot_id: str
    full: bool = False
    hosts: tuple[HostRow, ...] = ()
    accelerators: tuple[AcceleratorRow, ...] = ()
    shards: tuple[ShardRow, ...] = ()
    restore_failures: tuple[RestoreFailedRow, ...] = ()
    checked: tuple[CheckedRow, ...] = ()
    broken_links: tuple[str, ...] | None = None
    faults: tuple[FaultRow, ...] = ()
    unreadable: tuple[SourceRow, ...] | None = None
    all_faults: bool = False
    saves: tuple[SaveRow, ...] = ()


@dataclass(frozen=True, slots=True)
class HostsReached:
    """Many processes of one job are in one state: what a relay, or a whole gang in simulation, says in a few bytes.

    It tells of the job's processes of `generation` (0: without a rank) whose serials lie in `serials`, and only of those on
    `nodes` (ranges of node numbers; None: all) with an open session: the edge names the nodes whose current sessions
    `source` carries. What is not uniform (ends, strays, devices, files) comes in `NodeReport`.

    `state` and `column`: PARKED or PAUSED with NONE, JOINING with 0, RESTORING with 1 (has its groups) or 2 (has restored),
    RUNNING with 3 (has made its first step). `at_ns`: Unix ns at which the last of them got there.
    """

    source: str
    job: str
    generation: int
    state: RankState
    serials: Ranges
    at_ns: int
    column: int = NONE
    nodes: Ranges | None = None


@dataclass(frozen=True, slots=True)
class NodeSessionLost:
    """The agent's stream ended. Says nothing about the node's ranks."""

    node: str
    boot_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class CellHello:
    """A cell agent opened its session. Another `incarnation` means that all actors of the former one are gone.

    `speaks_for`: names or ranges of nodes on which it may report; None: all.
    """

    cell: str
    boot_id: str
    incarnation: str
    store_address: str
    nodes: tuple[tuple[str, bool], ...]
    speaks_for: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class CellReport:
    """Membership as Ray sees it (node, alive), and actors that died: (host id, reason). Evidence, not verdicts."""

    cell: str
    boot_id: str
    nodes: tuple[tuple[str, bool], ...] = ()
    dead_actors: tuple[tuple[str, str], ...] = ()
    store_address: str = ""
    store_known: bool = False


@dataclass(frozen=True, slots=True)
class CellSessionLost:
    """The cell agent's stream ended. Ranks run on."""

    cell: str
    boot_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class EffectDone:
    """An agent's answer to an effect. `node`: who refuses its part of a group effect. `pair`, `bytes_per_s`: its word on a test
    with another node, and the speed of the slower direction."""

    effect_id: str
    ok: bool
    message: str
    node: str = ""
    pair: PairWord = PairWord.UNSPECIFIED
    bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SubmitJob:
    """An operator's job. A dry run answers the same and stores nothing."""

    request_id: str
    spec: JobSpec
    dry_run: bool = False
    default_root: str = ""


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Stop a job: SIGTERM, deadline, SIGKILL. `grace_ms` 0: the job's own stop time-out. A second one may shorten it."""

    request_id: str
    name: str
    reason: str
    grace_ms: int = 0


@dataclass(frozen=True, slots=True)
class RestartJob:
    """All ranks leave their processes and start again from the newest restore point."""

    request_id: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class CordonNode:
    """Add an owned reason for which the node takes no new work."""

    request_id: str
    node: str
    owner: str
    reason: str


@dataclass(frozen=True, slots=True)
class DrainNode:
    """Cordon a node and have its ranks move elsewhere."""

    request_id: str
    node: str
    owner: str
    reason: str


@dataclass(frozen=True, slots=True)
class UncordonNode:
    """Remove one owner's reason; other owners' stay."""

    request_id: str
    node: str
    owner: str


@dataclass(frozen=True, slots=True)
class RetireNode:
    """Take a node out for good: it holds nothing any more and its name is never used again."""

    request_id: str
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class InjectFault:
    """Make a simulated accelerator report a fault (empty code: clear it)."""

    request_id: str
    node: str
    accelerator: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class VerifyCheckpoint:
    """Have a checkpoint read back."""

    request_id: str
    job: str
    checkpoint: str


@dataclass(frozen=True, slots=True)
class PinCheckpoint:
    """Keep a checkpoint from retention for an owned reason."""

    request_id: str
    job: str
    checkpoint: str
    owner: str
    reason: str


@dataclass(frozen=True, slots=True)
class UnpinCheckpoint:
    """Remove one owner's pin; other owners' stay."""

    request_id: str
    job: str
    checkpoint: str
    owner: str


@dataclass(frozen=True, slots=True)
class PoisonCheckpoint:
    """Distrust a checkpoint and every later one that the job has written until now."""

    request_id: str
    job: str
    checkpoint: str
    reason: str


@dataclass(frozen=True, slots=True)
class ClearCheckpoints:
    """Take the distrust in a job's checkpoints back; those that were found damaged stay poisoned."""

    request_id: str
    job: str
    owner: str
    reason: str


@dataclass(frozen=True, slots=True)
class CreateToken:
    """A one-use token with which one agent may join. `digest`: SHA-256 of its text, which is never stored."""

    request_id: str
    digest: str
    kind: str
    name: str
    speaks_for: tuple[str, ...]
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class Join:
    """A token is traded for a certificate. `key`: digest of the public key; `serial`: of the certificate to be made."""

    token: str
    key: str
    serial: str
    ttl_ms: int
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Renew:
    """An agent wants its next certificate. `series`: of the certificate with which it asks."""

    kind: str
    name: str
    series: int
    speaks_for: tuple[str, ...]
    serial: str
    ttl_ms: int
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class IssueOperator:
    """A certificate for an operator. `key`: digest of the public key that is to be certified."""

    request_id: str
    name: str
    role: Role
    key: str
    serial: str
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class RevokeIdentity:
    """Refuse all certificates of an identity from now on."""

    request_id: str
    kind: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReinstateIdentity:
    """Let a revoked identity get certificates again."""

    request_id: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class CertificateSeen:
    """A valid certificate that the journal does not know: made with the authority's key outside of a controller."""

    kind: str
    name: str
    role: Role
    speaks_for: tuple[str, ...]
    series: int
    serial: str
    issued_ns: int
    expires_ns: int


@dataclass(frozen=True, slots=True)
class NumbersSeen:
    """The edge finds that loss or gradients of steps that ranks told of are off (`health.numbers`). `at_ns`: Unix time."""

    job: str
    generation: int
    kind: Reason
    first_step: int
    last_step: int
    text: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class CompactJournal:
    """Compact the journal. The edge does it; the command only says who asked. `before_revision` 0: what retention says."""

    request_id: str
    before_revision: int = 0


@dataclass(frozen=True, slots=True)
class KeepCode:
    """User code was uploaded and stored by the edge; the command only says who did it. Uploads carry no request id."""

    request_id: str
    digest: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. `stall_ns`: how much longer than planned since the last one (our own lag)."""

    stall_ns: int = 0


@dataclass(frozen=True, slots=True)
class Settle:
    """Compare a job with what it wants and decide what is next. Issued by the machine itself after changes."""

    job: str
    evidence: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class NodeRows:
    """Living processes and stored shards that one node told of: judged together with those of the nodes beside it."""

    node: str
    hosts: tuple[HostRow, ...]
    shards: tuple[ShardRow, ...]


@dataclass(frozen=True, slots=True)
class Gathered:
    """What many nodes told one after another in one batch: living processes, stored shards, and effects that were carried out.
    Issued by the turn itself, so that a whole gang that gets somewhere, or saves, is a few records and not one for each node
    or rank."""

    rows: tuple[NodeRows, ...]
    finished: tuple[str, ...] = ()


IdentityCommand = CreateToken | Join | Renew | IssueOperator | RevokeIdentity | ReinstateIdentity
Command = (
    SubmitJob | CancelJob | RestartJob | CordonNode | DrainNode | UncordonNode | RetireNode | InjectFault
    | VerifyCheckpoint
    | PinCheckpoint | UnpinCheckpoint | PoisonCheckpoint | ClearCheckpoints | CompactJournal | KeepCode | IdentityCommand
)  # fmt: skip
Observation = (
    NodeHello | NodesJoined | NodeReport | HostsReached | NodeSessionLost | CellHello | CellReport | CellSessionLost
    | EffectDone | CertificateSeen | NumbersSeen
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ordered:
    """A command and who gave it. A bare command was given by `audit.LOCAL`."""

    command: Command
    by: By


Event = Command | Ordered | Observation | Tick | Settle | Gathered
