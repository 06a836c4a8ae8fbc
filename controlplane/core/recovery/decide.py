"""One incident, one verdict: the rung of least expected loss that can work, within rules and budgets. Pure; the caller
writes it down. `ruling` says what rules and budgets allow, `rungs` what could be done, `ladder` what that would cost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controlplane.core.checkpoints import restore_point
from controlplane.core.fleet import Fleet
from controlplane.core.jobs import Job
from controlplane.core.placement.gang import Placement
from controlplane.core.recovery.ladder import SHOWN, cheapest, deadline_ns, step_s
from controlplane.core.recovery.phase_times import PhaseTimes
from controlplane.core.recovery.ruling import Circumstances, Ruling, rule
from controlplane.core.recovery.rungs import Site, options, survivors, unblocks
from controlplane.core.spec import RuleAction
from controlplane.core.vocabulary import Blame, Rung

ASSUMED = PhaseTimes()
"""Nothing measured, default policy."""

ASKED = {
    RuleAction.RETRY_STEP: Rung.RETRY_STEP,
    RuleAction.ROLLBACK: Rung.ROLLBACK,
    RuleAction.RESTART_RANK: Rung.RESTART_RANK,
    RuleAction.REPLACE_RANK: Rung.REPLACE_RANK,
    RuleAction.RESTART_JOB: Rung.RESTART_JOB,
}
"""The rung for which a rule asks."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do about an incident, and everything it was based on.

    `moves`: new places for `moved` ranks; `fence`: host serials that must end first; `dropped`: data-parallel replicas that
    leave; `tried`: rungs looked at, with the price of each or why it cannot work. `ruling`: the rule that chose, and what
    the budgets said. `warm`, `deadline_ns`: see `records.RecoveryDecided`.
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
    dropped: tuple[int, ...] = ()
    warm: bool = False
    deadline_ns: int = 0


def decide(job: Job, fleet: Fleet, at: Circumstances, times: PhaseTimes = ASSUMED) -> Verdict:
    """The verdict on the job's running incident. `job` is placed; `fleet`: nodes and devices as believed now."""
    incident = job.incident
    if incident is None:
        raise ValueError(f"job {job.name} has no incident to decide")
    evidence = tuple(dict.fromkeys(entry.evidence for entry in incident.lost))[:SHOWN] or (incident.cause,)
    ruling = rule(job, incident, at)
    alive = survivors(job)
    lost = tuple(np.flatnonzero(job.present & ~alive).tolist())

    def stop(rung: Rung, reason: str, tried: tuple[str, ...]) -> Verdict:
        return Verdict(rung, reason, lost, ruling.blame, False, at.now_ns, tried, ruling.readings, evidence, ruling)

    if ruling.refused:
        return stop(*ruling.refused, (f"every rung: refused, {_by_whom(ruling)}",))
    site = Site(job, fleet, ruling, times, redone_s=_redone_s(job, at, times))
    found = options(site, alive, lost)
    tried = (*map(str, found),)
    best = cheapest(found, ASKED.get(ruling.action))
    if best is None:
        room = "; ".join(option.blocked for option in found if option.rung is not Rung.RESTART_RANK)
        return stop(Rung.SUSPEND, f"{ruling.cause}; {room}; {unblocks(job, fleet)}", tried)
    return Verdict(
        best.rung, ruling.cause, best.ranks, ruling.blame, ruling.due, ruling.start_ns, tried, ruling.readings, evidence, ruling,
        best.moved, best.moves, best.fence, best.dropped, best.warm, deadline_ns(job, best, times, ruling.start_ns),
    )  # fmt: skip


def _redone_s(job: Job, at: Circumstances, times: PhaseTimes) -> float:
    """Work since the newest restore point, seconds."""
    point = restore_point(job.checkpoints.values(), job.restore_limit)
    return max(0, at.step - (point.step if point else 0)) * step_s(job, at.now_ns, at.step, times)


def _by_whom(ruling: Ruling) -> str:
    chosen = ruling.choice and ruling.action in (RuleAction.FAIL, RuleAction.SUSPEND)
    return ruling.choice.rule if chosen and ruling.choice else str(ruling.reading)
