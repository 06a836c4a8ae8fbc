"""Durable records of health: this controller's own sight, faults, quarantine, links; see `records`, which names them all."""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.core.evidence import Reason
from controlplane.core.health.book import FaultNote, Source
from controlplane.core.health.canaries import Outcome
from controlplane.core.health.numbers import Skip
from controlplane.core.health.stragglers import Straggler
from controlplane.core.vocabulary import Blame, HandlingLevel


@dataclass(frozen=True, slots=True)
class DetectorDegraded:
    """This controller is late itself: silence convicts nobody until it is restored."""

    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DetectorRestored:
    """This controller keeps up again: silence counts."""

    after_ms: int


@dataclass(frozen=True, slots=True)
class NumbersSuspected:
    """Loss or gradients of a job are off, from `first_step` to `last_step`. `acted`: the job goes back to before them, else it is
    only noted. `skip`: batches that are left out from now on; None: they are computed again. `blame`: whose doing it is."""

    job: str
    generation: int
    kind: Reason
    first_step: int
    last_step: int
    reason: str
    blame: Blame
    acted: bool = True
    skip: Skip | None = None


@dataclass(frozen=True, slots=True)
class FaultsReported:
    """Faults of a node as they came in, each judged: it occurred, recovered, or happened once."""

    node: str
    notes: tuple[FaultNote, ...]


@dataclass(frozen=True, slots=True)
class FaultsJudged:
    """Faults that stand on a node are judged anew, because of time, of a reset or of other devices of the job. A note that
    says recovered ends its fault."""

    node: str
    notes: tuple[FaultNote, ...]


@dataclass(frozen=True, slots=True)
class FaultShadowed:
    """A fault's rule is in shadow mode: it would have asked for `level`, and was only observed."""

    node: str
    entity: str
    vendor: str
    code: str
    level: HandlingLevel


@dataclass(frozen=True, slots=True)
class SourcesReported:
    """Sources of a node's health that cannot be read now, in place of what was said before."""

    node: str
    unreadable: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class IncidentReblamed:
    """Losses of a running incident turn out to be somebody else's fault."""

    job: str
    ranks: tuple[int, ...]
    blame: Blame
    level: str
    reason: str


@dataclass(frozen=True, slots=True)
class NodeQuarantined:
    """Health takes a node out: no new work, what runs there moves elsewhere. `disturbs`: something that works has to move, so
    that the action budget counts it. `serials`: the parts that are to blame."""

    node: str
    reason: str
    level: HandlingLevel
    evidence: tuple[str, ...]
    serials: tuple[str, ...] = ()
    disturbs: bool = False


@dataclass(frozen=True, slots=True)
class ActRefused:
    """The action budget does not allow an act against what works: it is dropped, and asked for again only by fresh evidence."""

    node: str
    act: str
    reason: str


@dataclass(frozen=True, slots=True)
class ChecksStarted:
    """The agent of a quarantined node repairs and checks it."""

    node: str


@dataclass(frozen=True, slots=True)
class ChecksFailed:
    """The node stays in quarantine. `next_ns`: when the checks are tried again, Unix ns."""

    node: str
    reason: str
    next_ns: int


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """The checks passed: the node takes work again, on trial until `until_ns` (Unix ns)."""

    node: str
    until_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class TrialPassed:
    """The trial is over and nothing happened."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeReleased:
    """An operator's word against health's: the node is back, and what happened before is not held against it."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class LinksReported:
    """Nodes to which a node's links are broken, in place of what it said before."""

    node: str
    broken: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CanaryReleased:
    """A node without ranks is to raise a fault on purpose."""

    node: str
    number: int


@dataclass(frozen=True, slots=True)
class CanaryEnded:
    """A canary's fault was recorded, or was not. `after_ms`: since its agent raised it, of one that was missed since it was
    released."""

    node: str
    number: int
    outcome: Outcome
    after_ms: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StragglersFound:
    """Ranks of a job are slower than those that do the same work. `nodes`: those of which several ranks are slow."""

    job: str
    found: tuple[Straggler, ...]
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StragglersGone:
    """Ranks that were flagged as stragglers are none any more."""

    job: str
    ranks: tuple[int, ...]
    reason: str
