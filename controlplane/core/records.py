"""Durable records: everything that ever changes the state. Explicit types with versions; JSON bodies through `codec`.

Numbers of nodes are registration order, which the journal itself fixes. A type that this version does not know makes the
controller refuse to start; an older version of a type is lifted by its upcaster.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from controlplane.core import codec
from controlplane.core.audit import AuditEntry
from controlplane.core.effects import Effect
from controlplane.core.events import AcceleratorRow
from controlplane.core.evidence import Offence
from controlplane.core.fleet import Accelerator
from controlplane.core.jobs import NONE, LostRank
from controlplane.core.ranges import Ranges, expand, runs
from controlplane.core.records_checkpoints import (
    CheckpointCommitted,
    CheckpointIntervalSet,
    CheckpointPinned,
    CheckpointPoisoned,
    CheckpointsExpired,
    CheckpointUnpinned,
    CheckpointVerified,
    CorruptionCleared,
    CorruptionSuspected,
    SaveAsked,
    SaveEnded,
    SavesFailing,
    SavesRecovered,
    ScrubStarted,
    ShardsReported,
)
from controlplane.core.records_hangs import HangJudged, HangSuspected
from controlplane.core.records_health import (
    ActRefused,
    CanaryEnded,
    CanaryReleased,
    ChecksFailed,
    ChecksStarted,
    DetectorDegraded,
    DetectorRestored,
    FaultShadowed,
    FaultsJudged,
    FaultsReported,
    IncidentReblamed,
    LinksReported,
    NodeQuarantined,
    NodeReleased,
    NumbersSuspected,
    SourcesReported,
    StragglersFound,
    StragglersGone,
    TrialPassed,
    TrialStarted,
)
from controlplane.core.records_hosts import (
    HostEnded,
    HostsForgotten,
    HostsLost,
    HostsObserved,
    HostsReached,
    HostsRequested,
    StartFailed,
)
from controlplane.core.records_identity import (
    CertificateIssued,
    IdentityReinstated,
    IdentityRevoked,
    TokenCreated,
    TokenSpent,
)
from controlplane.core.records_policy import PolicyChanged
from controlplane.core.records_validation import (
    PairAnswered,
    PairsAwaited,
    PairsStarted,
    ValidationEnded,
    ValidationStarted,
)
from controlplane.core.spec import JobSpec
from controlplane.core.vocabulary import Blame, JobState, NodeLiveness, Phase, Rung

__all__ = [
    "ActRefused",
    "CanaryEnded",
    "CanaryReleased",
    "CertificateIssued",
    "CheckpointCommitted",
    "CheckpointIntervalSet",
    "CheckpointPinned",
    "CheckpointPoisoned",
    "CheckpointUnpinned",
    "CheckpointVerified",
    "CheckpointsExpired",
    "ChecksFailed",
    "ChecksStarted",
    "CorruptionCleared",
    "CorruptionSuspected",
    "DetectorDegraded",
    "DetectorRestored",
    "FaultShadowed",
    "FaultsJudged",
    "FaultsReported",
    "HangJudged",
    "HangSuspected",
    "HostEnded",
    "HostsForgotten",
    "HostsLost",
    "HostsObserved",
    "HostsReached",
    "HostsRequested",
    "IdentityReinstated",
    "IdentityRevoked",
    "IncidentReblamed",
    "LinksReported",
    "NodeQuarantined",
    "NodeReleased",
    "NumbersSuspected",
    "PairAnswered",
    "PairsAwaited",
    "PairsStarted",
    "PolicyChanged",
    "SaveAsked",
    "SaveEnded",
    "SavesFailing",
    "SavesRecovered",
    "ScrubStarted",
    "ShardsReported",
    "SourcesReported",
    "StartFailed",
    "StragglersFound",
    "StragglersGone",
    "TokenCreated",
    "TokenSpent",
    "TrialPassed",
    "TrialStarted",
    "ValidationEnded",
    "ValidationStarted",
]
"""Kept in modules of their own; everything else is here."""


@dataclass(frozen=True, slots=True)
class ControllerStarted:
    """A controller took leadership: sessions are gone, every node gets a fresh lease."""

    epoch: int
    version: str


@dataclass(frozen=True, slots=True)
class NodeRegistered:
    """A node joined for the first time, or came back with other facts."""

    node: str
    boot_id: str
    address: str
    version: str
    labels: tuple[tuple[str, str], ...]
    accelerators: tuple[Accelerator, ...]
    states: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class NodesRegistered:
    """Nodes joined for the first time, in this order, and their agents' sessions are open."""

    nodes: tuple[NodeRegistered, ...]


@dataclass(frozen=True, slots=True)
class NodeSessionChanged:
    """The agent's session opened or ended."""

    node: str
    open: bool
    boot_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class LivenessChanged:
    """A verdict on nodes, with its witnesses. `path_broken`: ALIVE by proof of its ranks, out of our sight."""

    nodes: tuple[str, ...]
    liveness: NodeLiveness
    reason: str
    evidence: tuple[str, ...] = ()
    path_broken: bool = False


@dataclass(frozen=True, slots=True)
class AcceleratorsChanged:
    """Devices of a node changed state."""

    node: str
    rows: tuple[AcceleratorRow, ...]


@dataclass(frozen=True, slots=True)
class NodeCordoned:
    """An owner gave a reason for which the node takes no new work, in place of its earlier one. `drain`: what runs there is
    to move elsewhere."""

    node: str
    owner: str
    reason: str
    items: tuple[str, ...] = ()
    drain: bool = False


@dataclass(frozen=True, slots=True)
class NodeUncordoned:
    """An owner took its reason back."""

    node: str
    owner: str


@dataclass(frozen=True, slots=True)
class NodeDrained:
    """No process of a job is left on a draining node: it is out of service until it is uncordoned."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeRetired:
    """A node was taken out for good by its operators: it is none of the site's any more, and its name stays used."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class CellSessionChanged:
    """A cell agent's session opened or ended."""

    cell: str
    open: bool
    boot_id: str
    incarnation: str
    store_address: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CellMembershipChanged:
    """Raylets joined or left the cell. Never more than membership."""

    cell: str
    joined: tuple[str, ...]
    left: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JobSubmitted:
    """A job was accepted. `inherits`: the checkpoint of another job that it starts from; "": none."""

    uid: str
    name: str
    serial: int
    spec: JobSpec
    inherits: str = ""


@dataclass(frozen=True, slots=True)
class JobPlaced:
    """Places for all ranks (node numbers; positions flattened, accelerators-per-rank each) and the warm spare nodes."""

    job: str
    nodes: tuple[int, ...]
    accelerators: tuple[int, ...]
    spares: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class JobUnplaced:
    """A job that has not started yet lost a place: it gives the others back and queues again."""

    job: str
    reason: str


@dataclass(frozen=True, slots=True)
class RanksMoved:
    """A patch of the rank table."""

    job: str
    ranks: tuple[int, ...]
    nodes: tuple[int, ...]
    accelerators: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SparesChanged:
    """The warm spare nodes of a job are now these."""

    job: str
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SparesWanted:
    """So many warm spare nodes are to be held for a job whose manifest leaves the number to the controller."""

    job: str
    nodes: int
    reason: str


@dataclass(frozen=True, slots=True)
class JobStateChanged:
    """A job changed state, or names another blocker."""

    job: str
    state: JobState
    blocker: str = ""


@dataclass(frozen=True, slots=True)
class RanksLost:
    """Evidence against ranks opens an incident or joins the running one. No `lost` rank: all keep their processes, but the
    generation cannot go on (`cause` says why, `why` is its constant name). `step_known`: the newest step could be read.
    `released`: an operator lets the job go on. `intact`: no rank lost its state either. `since_ns`: since when
    it cannot go on, Unix ns; 0: what the losses say, else now."""

    job: str
    lost: tuple[LostRank, ...]
    collect_until_ns: int
    step: int
    cause: str
    step_known: bool = True
    why: str = ""
    released: bool = False
    intact: bool = False
    since_ns: int = 0


@dataclass(frozen=True, slots=True)
class RecoveryDecided:
    """A verdict of the recovery ladder with everything it was based on.

    `rule`: the job rule that chose, `rules`: each that was looked at with why it did not match; `evidence_ids`: journal
    revisions of the records that it rests on; `offence`: what is counted against the root's rank and node. `backoff_ns`: the
    wait before `draw`, a random number in [0, 1), shortened it. `restore_limit`: no newer step is restored, -1: any.
    `deadline_ns`: the rung has failed when the job does not run until then; 0: it has no deadline. `warm`: every rank finds a
    parked process.
    """

    job: str
    rung: Rung
    reason: str
    ranks: tuple[int, ...]
    blame: Blame
    charged: bool
    step: int
    not_before_ns: int
    tried: tuple[str, ...]
    budgets: tuple[str, ...]
    evidence: tuple[str, ...]
    rule: str = ""
    rules: tuple[str, ...] = ()
    evidence_ids: tuple[int, ...] = ()
    offence: Offence | None = None
    backoff_ns: int = 0
    draw: float = 0.0
    restore_limit: int = -1
    deadline_ns: int = 0
    warm: bool = False


@dataclass(frozen=True, slots=True)
class NodeJudged:
    """The node rules of a job on the node where an incident began. `rules`: each with why it did not match, or what it does
    and whether that was allowed; `action` "" when nothing is done."""

    job: str
    node: str
    rules: tuple[str, ...]
    action: str = ""
    reason: str = ""
    evidence_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RungFailed:
    """A rung has not led to a running job, or cannot: the incident is judged again without it. `nodes`: those on which ranks
    did not come up."""

    job: str
    rung: Rung
    nodes: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class ReplicasDropped:
    """Data-parallel replicas (by their dp coordinate) give their places back and take part no more; their processes are
    being fenced."""

    job: str
    replicas: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SurvivorsGivenUp:
    """A restart of the whole job takes the rank from live processes; they are being fenced."""

    job: str
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FromTier:
    """How many ranks take their state from a tier, and which (the first runs of them)."""

    tier: str
    ranks: int
    runs: Ranges


@dataclass(frozen=True, slots=True)
class GenerationStarted:
    """A new rank table is in force, and the restore point. `hosts`: serials of the processes that take the `changed_ranks`,
    one for one; every other rank keeps its process. `participants`: ranks that take part; 0: all. `keeps_state`: every rank
    goes on with what it holds, which is the state after `restore_step`.

    `sources`: which ranks restore from which tier, where they do not all read the checkpoint; `passed_over`: newer steps
    that could not be restored, and why.
    `redone_ns`: how long the job had worked since the restore point's step, where no checkpoint tells it; -1: one does.
    """

    job: str
    generation: int
    hosts: Ranges
    changed_ranks: Ranges
    restore_id: str
    restore_step: int
    participants: int = 0
    keeps_state: bool = False
    sources: tuple[FromTier, ...] = ()
    passed_over: tuple[str, ...] = ()
    redone_ns: int = -1

    def holder(self, rank: int) -> int:
        """Serial of the process that takes a rank, NONE when the rank keeps the one that it has."""
        at = np.flatnonzero(expand(self.changed_ranks) == rank)
        return int(expand(self.hosts)[at[0]]) if len(at) else NONE


@dataclass(frozen=True, slots=True)
class GenerationReached:
    """All ranks of the generation have reached a phase."""

    job: str
    generation: int
    phase: Phase
    at_ns: int


@dataclass(frozen=True, slots=True)
class JoinFailed:
    """A generation did not come to run in time."""

    job: str
    generation: int
    laggards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class JobEnding:
    """The job will end in `state`; its processes are being stopped. `step`: newest step that was known."""

    job: str
    state: JobState
    reason: str
    result: dict[str, str]
    step: int = 0


@dataclass(frozen=True, slots=True)
class JobEnded:
    """The job has ended and holds nothing any more."""

    job: str
    state: JobState
    reason: str


@dataclass(frozen=True, slots=True)
class EffectsIssued:
    """Commands that will be sent once this is durable."""

    effects: tuple[Effect, ...]


@dataclass(frozen=True, slots=True)
class EffectsFinished:
    """Outcomes, in the order of `ids`; `expired` when nobody answered before the deadline."""

    ids: tuple[str, ...]
    ok: bool
    message: str = ""
    expired: bool = False


@dataclass(frozen=True, slots=True)
class RequestAnswered:
    """The answer to a mutating request; a repeat of the id gets the same. `command`: fingerprint of what was asked."""

    request_id: str
    answer: dict[str, str]
    command: str = ""


@dataclass(frozen=True, slots=True)
class Audited:
    """An accepted command, chained to the one before it."""

    entry: AuditEntry


@dataclass(frozen=True, slots=True)
class JournalRestored:
    """The journal comes from a backup. What was decided after that is unknown to us and may be known to agents, so that
    many numbers of jobs, effects, processes and generations are never used."""

    skipped: int


Record = (
    ControllerStarted | NodeRegistered | NodeSessionChanged | LivenessChanged | AcceleratorsChanged | NodeCordoned
    | NodeUncordoned | CellSessionChanged | CellMembershipChanged | JobSubmitted | JobPlaced | RanksMoved | SparesChanged
    | JobStateChanged | HostsRequested | HostsObserved | HostEnded | HostsForgotten | StartFailed | RanksLost
    | RecoveryDecided | SurvivorsGivenUp | GenerationStarted | GenerationReached | JoinFailed | ShardsReported | CheckpointCommitted
    | CheckpointVerified | CheckpointPoisoned | CheckpointsExpired | JobEnding | JobEnded | EffectsIssued
    | EffectsFinished | RequestAnswered | CheckpointPinned | CheckpointUnpinned | Audited | NodeDrained | JobUnplaced
    | TokenCreated | TokenSpent | CertificateIssued
    | IdentityRevoked | IdentityReinstated | JournalRestored | HostsReached | HostsLost
    | CorruptionSuspected | CorruptionCleared | SparesWanted | CheckpointIntervalSet | NodesRegistered
    | DetectorDegraded | DetectorRestored | LinksReported | NodeJudged
    | RungFailed | ReplicasDropped
    | FaultShadowed | FaultsReported | FaultsJudged | SourcesReported | IncidentReblamed
    | NodeQuarantined | ActRefused | ChecksStarted | ChecksFailed | TrialStarted | TrialPassed | NodeReleased
    | PolicyChanged | NodeRetired
    | PairsAwaited | ValidationStarted | PairsStarted | PairAnswered | ValidationEnded
    | CanaryReleased | CanaryEnded
    | StragglersFound | StragglersGone
    | HangSuspected | HangJudged
    | NumbersSuspected
    | SaveAsked | SaveEnded | SavesFailing | SavesRecovered | ScrubStarted
)  # fmt: skip

TYPES: Mapping[str, type[Any]] = {cls.__name__: cls for cls in Record.__args__}
VERSIONS: Mapping[str, int] = {
    "AcceleratorsChanged": 2,
    "GenerationStarted": 3,
    "HostsObserved": 3,
    "JobSubmitted": 3,
    "LivenessChanged": 2,
    "NodeRegistered": 2,
    "NodeCordoned": 2,
    "RanksLost": 3,
    "RecoveryDecided": 2,
    "RequestAnswered": 2,
}
"""Types whose fields have changed since version 1."""


def _gained(body: dict[str, Any]) -> dict[str, Any]:
    """A version that only gained fields which have defaults."""
    return body


def _rank_table_to_patch(body: dict[str, Any]) -> dict[str, Any]:
    """Version 1 named the process of every rank; those whose rank did not change kept it."""
    changed = body["changed_ranks"]
    return {**body, "changed_ranks": runs(changed), "hosts": runs(body["hosts"][rank] for rank in changed)}


def _node_to_nodes(body: dict[str, Any]) -> dict[str, Any]:
    """Version 1 told of one node."""
    return {"job": body["job"], "nodes": [body["node"]], "rows": body["rows"]}


def _rows_to_columns(body: dict[str, Any]) -> dict[str, Any]:
    """Version 2 held an object for each row, all with the same keys."""
    rows = body["rows"]
    columns = {key: [row[key] for row in rows] for key in rows[0]} if rows else {}
    return {**body, "rows": {codec.COUNT: len(rows), **columns}}


def _one_shard(body: dict[str, Any]) -> dict[str, Any]:
    """Each rank's part was a record of its own."""
    return {**{key: value for key, value in body.items() if key != "shard"}, "shards": [body["shard"]]}


UPCASTERS: Mapping[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {
    ("GenerationStarted", 1): _rank_table_to_patch,
    ("GenerationStarted", 2): _gained,
    ("HostsObserved", 1): _node_to_nodes,
    ("HostsObserved", 2): _rows_to_columns,
    ("NodeCordoned", 1): _gained,
    ("JobSubmitted", 1): _gained,
    ("JobSubmitted", 2): _gained,
    ("RanksLost", 1): _gained,
    ("RanksLost", 2): _gained,
    ("RecoveryDecided", 1): _gained,
    ("AcceleratorsChanged", 1): _gained,
    ("NodeRegistered", 1): _gained,
    ("RequestAnswered", 1): _gained,
    ("LivenessChanged", 1): _gained,
}
"""(type, version) -> body of version + 1."""

FORMER: Mapping[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "ShardReported": ("ShardsReported", _one_shard),
}
"""Types that are written no more -> the type that tells the same, and version 1 of its body."""


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


class UnknownRecord(Exception):
    """The journal was written by a newer Phalanx; the message names type and version."""


def version_of(record_type: str) -> int:
    """Version in which this program writes a type."""
    return VERSIONS.get(record_type, 1)


def type_names(kinds: Iterable[type[Any]]) -> tuple[str, ...]:
    """Names under which the journal holds records of some types, former ones included."""
    names = [kind.__name__ for kind in kinds]
    return (*names, *(former for former, (name, _) in FORMER.items() if name in names))


def encode(record: Record) -> tuple[str, int, str]:
    """(type, version, JSON body) of a record; keys sorted, so that equal records give equal text."""
    name = type(record).__name__
    return name, version_of(name), _CANONICAL.encode(codec.encode(record))


def decode(record_type: str, version: int, body: str) -> Record:
    """A record from the journal.

    Raises:
        UnknownRecord: type or version is newer than this program.
    """
    data = json.loads(body)
    if record_type in FORMER and version == 1:
        record_type, lift = FORMER[record_type]
        data = lift(data)
    cls = TYPES.get(record_type)
    if cls is None or version > version_of(record_type):
        known = f"knows version {version_of(record_type)}" if cls else "does not know the type"
        raise UnknownRecord(
            f"the journal holds {record_type} version {version}, this version of Phalanx {known}: "
            "start the version that wrote it, or a newer one"
        )
    for step in range(version, version_of(record_type)):
        data = UPCASTERS[(record_type, step)](data)
    record: Record = codec.decode(cls, data)
    return record


def subject(record: Record) -> tuple[str, str]:
    """(job uid, node name) that a record is about; "" where it is about none."""
    if isinstance(record, Audited):
        return _audited_subject(record.entry.subject)
    node = getattr(record, "node", "")
    return getattr(record, "job", getattr(record, "uid", "")), node if isinstance(node, str) else ""


def _audited_subject(text: str) -> tuple[str, str]:
    kind, _, name = text.partition("/")
    return (name.partition("/")[0] if kind in ("job", "checkpoint") else ""), (name if kind == "node" else "")
