"""One incident, one verdict: the cheapest rung that can work, within the budgets. Pure; the caller writes it down.

Rungs in order of cost: ROLLBACK (nobody lost a process), RESTART_RANK (same place), REPLACE_RANK (another place),
RESTART_JOB (no survivor, or generations kept failing), SUSPEND (no place), FAIL (budget spent).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controlplane.core.fleet import Fleet
from controlplane.core.jobs import NONE, Incident, Job, root_cause
from controlplane.core.placement.gang import Blocked, Placement, replace_ranks
from controlplane.core.recovery.budgets import Reading, backoff_ns, read_budget
from controlplane.core.vocabulary import Blame, NodeLiveness, NodeService, Rung

MAX_FAILED_GENERATIONS = 2
"""After this many generations in one incident that did not come to run, survivors are given up."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do about an incident, and everything it was based on.

    `moves`: new places for `moved` ranks; `fence`: host serials that must end first; `tried`: rungs looked at, with
    why each was taken or not.
    """

    rung: Rung
    reason: str
    ranks: tuple[int, ...]
    blame: Blame
    charged: bool
    not_before_ns: int
    tried: tuple[str, ...]
    budgets: tuple[str, ...]
    evidence: tuple[str, ...]
    moved: tuple[int, ...] = ()
    moves: Placement | None = None
    fence: tuple[int, ...] = ()


def survivors(job: Job) -> np.ndarray:
    """Mask over ranks whose process is alive and holds the rank."""
    rows = job.hosts.rows(job.rank_host)
    held: np.ndarray = (job.rank_host != NONE) & (rows != NONE)
    held[held] = job.hosts.live()[rows[held]]
    return held


def misplaced(job: Job, fleet: Fleet, ranks: tuple[int, ...]) -> tuple[int, ...]:
    """Those of `ranks` that cannot start where they are: node takes no work, or a device is unusable."""
    at = np.array(ranks, dtype=np.int64)
    nodes = job.rank_node[at]
    good = fleet.schedulable()[nodes] & _good_devices(job, fleet, at)
    return tuple(at[~good].tolist())


def _good_devices(job: Job, fleet: Fleet, at: np.ndarray) -> np.ndarray:
    """Mask over the ranks `at`: all devices of the rank can run it."""
    mask: np.ndarray = fleet.usable_accelerators()[job.rank_node[at][:, None], job.rank_acc[at]].all(axis=1)
    return mask


def unsure(job: Job, fleet: Fleet, ranks: tuple[int, ...]) -> tuple[int, ...]:
    """Node numbers of `ranks` that cannot start there now only because we do not see enough of the node: no session (an
    agent or this controller was restarted), no raylet, or SUSPECT. They are worth a short wait; the others are not."""
    hidden = ~fleet.schedulable() & ~fleet.cordoned & (fleet.service == NodeService.IN_SERVICE)
    hidden &= (fleet.liveness == NodeLiveness.ALIVE) | (fleet.liveness == NodeLiveness.SUSPECT)
    at = np.array(ranks, dtype=np.int64)
    at = at[hidden[job.rank_node[at]]]
    return tuple(np.unique(job.rank_node[at[_good_devices(job, fleet, at)]]).tolist())


def decide(job: Job, fleet: Fleet, now_ns: int, step: int) -> Verdict:
    """The verdict on the job's running incident.

    Args:
        job: a placed job with an incident.
        fleet: nodes and devices as believed now.
        now_ns: Unix nanoseconds.
        step: newest step that the job's ranks have proven.
    """
    incident = job.incident
    if incident is None:
        raise ValueError(f"job {job.name} has no incident to decide")
    root = root_cause(incident.lost)
    blame = root.blame if root else Blame.INFRASTRUCTURE
    cause = root.cause if root else incident.cause
    evidence = tuple(entry.evidence for entry in incident.lost) or (incident.cause,)
    free = costs_nothing(incident)
    reading = read_budget(job, blame, now_ns, step)
    readings = tuple(str(read_budget(job, ledger, now_ns, step)) for ledger in Blame)
    tried: list[str] = []

    def verdict(rung: Rung, reason: str, *, ranks: tuple[int, ...], wait_ns: int = 0, **places: object) -> Verdict:
        charged = not free and rung not in (Rung.SUSPEND, Rung.FAIL)
        return Verdict(
            rung, reason, ranks, blame, charged, now_ns + wait_ns, tuple(tried), readings, evidence,
            **places,  # type: ignore[arg-type] # forwarded to the same-named fields
        )  # fmt: skip

    alive = survivors(job)
    lost = tuple(int(rank) for rank in np.flatnonzero(~alive))
    if not reading.allows and not free:
        tried.append(f"every rung: refused, {reading}")
        error = f"; last error: {job.last_error}" if job.last_error else ""
        return verdict(Rung.FAIL, f"{cause}; restart budget spent ({reading}){error}", ranks=lost)
    wait_ns = 0 if free else _wait_ns(job, blame, reading)
    give_up = incident.attempts >= MAX_FAILED_GENERATIONS
    if not lost and not give_up:
        tried.append("ROLLBACK: every rank kept its process")
        return verdict(Rung.ROLLBACK, cause, ranks=(), wait_ns=wait_ns)
    ranks = tuple(range(job.spec.ranks)) if give_up else lost
    fence = tuple(int(job.rank_host[r]) for r in np.flatnonzero(alive)) if give_up else ()
    bad = misplaced(job, fleet, ranks)
    if give_up or not alive.any():
        why = "generations kept failing" if give_up else "no rank keeps its process" if free else "no rank survived"
        tried.append(f"RESTART_JOB: {why}")
        rung = Rung.RESTART_JOB
    else:
        tried.append(
            f"RESTART_RANK: {'hardware of ranks ' + str(list(bad)) + ' is not usable' if bad else 'hardware good'}"
        )
        rung = Rung.REPLACE_RANK if bad else Rung.RESTART_RANK
    if not bad:
        return verdict(rung, cause, ranks=ranks, wait_ns=wait_ns, fence=fence)
    avoid = frozenset(int(job.rank_node[rank]) for rank in bad if not fleet.schedulable()[job.rank_node[rank]])
    places = replace_ranks(fleet, job, bad, avoid)
    if isinstance(places, Blocked):
        tried.append(f"REPLACE_RANK: {places.reason}")
        return verdict(Rung.SUSPEND, f"{cause}; {places.reason}", ranks=ranks)
    names = sorted({fleet.name(node) for node in places.nodes})
    tried.append(f"REPLACE_RANK: ranks {list(bad)} fit on {', '.join(names)}")
    return verdict(rung, cause, ranks=ranks, wait_ns=wait_ns, moved=bad, moves=places, fence=fence)


def costs_nothing(incident: Incident) -> bool:
    """Whether nothing has failed: an operator wanted it, or a rank without a process has to be placed once more."""
    return bool(incident.lost) and all(entry.planned or entry.serial == NONE for entry in incident.lost)


def _wait_ns(job: Job, blame: Blame, reading: Reading) -> int:
    """Failures of the user's code wait longer each time; the machine's do not wait."""
    return backoff_ns(job.spec.restart_policy.backoff, reading.used) if blame is Blame.USER else 0
