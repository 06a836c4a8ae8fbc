"""One incident, one verdict: the cheapest rung that can work, within the budgets. Pure; the caller writes it down.

Rungs in order of cost: ROLLBACK (nobody lost a process), RESTART_RANK (same place), REPLACE_RANK (another place),
RESTART_JOB (no survivor, or generations kept failing), SUSPEND (no place), FAIL (budget spent).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controlplane.core.fleet import Fleet
from controlplane.core.jobs import NONE, Job
from controlplane.core.placement.gang import Blocked, Placement, replace_ranks
from controlplane.core.recovery import rules
from controlplane.core.recovery.ruling import Circumstances, Ruling, costs_nothing, rule
from controlplane.core.spec import RuleAction
from controlplane.core.vocabulary import Blame, NodeLiveness, NodeService, Rung

MAX_FAILED_GENERATIONS = 2
"""After this many generations in one incident that did not come to run, survivors are given up."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do about an incident, and everything it was based on.

    `moves`: new places for `moved` ranks; `fence`: host serials that must end first; `tried`: rungs looked at, with
    why each was taken or not. `ruling`: the rule that chose, and what the budgets said.
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
    ruling: Ruling
    moved: tuple[int, ...] = ()
    moves: Placement | None = None
    fence: tuple[int, ...] = ()


def survivors(job: Job) -> np.ndarray:
    """Mask over ranks whose process is alive and holds the rank."""
    rows = job.host_rows()
    held: np.ndarray = rows != NONE
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


def decide(job: Job, fleet: Fleet, at: Circumstances) -> Verdict:
    """The verdict on the job's running incident. `job` is placed; `fleet`: nodes and devices as believed now."""
    incident = job.incident
    if incident is None:
        raise ValueError(f"job {job.name} has no incident to decide")
    evidence = tuple(entry.evidence for entry in incident.lost) or (incident.cause,)
    free = costs_nothing(incident)
    ruling = rule(job, incident, at)
    cause = ruling.cause
    tried: list[str] = []

    def verdict(rung: Rung, reason: str, *, ranks: tuple[int, ...], **places: object) -> Verdict:
        ends = rung in (Rung.SUSPEND, Rung.FAIL)
        return Verdict(
            rung, reason, ranks, ruling.blame, not free and not ends, at.now_ns if ends else ruling.start_ns, tuple(tried),
            ruling.readings, evidence, ruling,
            **places,  # type: ignore[arg-type] # forwarded to the same-named fields
        )  # fmt: skip

    alive = survivors(job)
    lost = tuple(int(rank) for rank in np.flatnonzero(~alive))
    if ruling.refused:
        tried.append(f"every rung: refused, {_by_whom(ruling)}")
        return verdict(*ruling.refused, ranks=lost)
    by_rule = rules.told(ruling.choice) if ruling.choice and ruling.action is RuleAction.RESTART_JOB else ""
    give_up = bool(by_rule) or incident.attempts >= MAX_FAILED_GENERATIONS
    if not lost and not give_up:
        tried.append("ROLLBACK: every rank kept its process")
        return verdict(Rung.ROLLBACK, cause, ranks=())
    ranks = tuple(range(job.spec.ranks)) if give_up else lost
    fence = tuple(int(job.rank_host[r]) for r in np.flatnonzero(alive)) if give_up else ()
    moved = frozenset(ruling.moved) & frozenset(ranks)
    bad = tuple(sorted(moved.union(misplaced(job, fleet, ranks))))
    if give_up or not alive.any():
        why = "generations kept failing" if give_up else "no rank keeps its process" if free else "no rank survived"
        tried.append(f"RESTART_JOB: {by_rule or why}")
        rung = Rung.RESTART_JOB
    else:
        tried.append(f"RESTART_RANK: {_why_not_here(bad, moved)}")
        rung = Rung.REPLACE_RANK if bad else Rung.RESTART_RANK
    if not bad:
        return verdict(rung, cause, ranks=ranks, fence=fence)
    open_nodes = fleet.schedulable()
    avoid = frozenset(int(job.rank_node[k]) for k in bad if k in moved or not open_nodes[job.rank_node[k]])
    places = replace_ranks(fleet, job, bad, avoid)
    if isinstance(places, Blocked):
        tried.append(f"REPLACE_RANK: {places.reason}")
        return verdict(Rung.SUSPEND, f"{cause}; {places.reason}", ranks=ranks)
    names = sorted({fleet.name(node) for node in places.nodes})
    tried.append(f"REPLACE_RANK: ranks {list(bad)} fit on {', '.join(names)}")
    return verdict(rung, cause, ranks=ranks, moved=bad, moves=places, fence=fence)


def _by_whom(ruling: Ruling) -> str:
    chosen = ruling.choice and ruling.action in (RuleAction.FAIL, RuleAction.SUSPEND)
    return ruling.choice.rule if chosen and ruling.choice else str(ruling.reading)


def _why_not_here(bad: tuple[int, ...], moved: frozenset[int]) -> str:
    """Why ranks do not start again where they are."""
    if not bad:
        return "hardware good"
    if moved.issuperset(bad):
        return f"a rule moves ranks {list(bad)}"
    return f"hardware of ranks {list(bad)} is not usable"
