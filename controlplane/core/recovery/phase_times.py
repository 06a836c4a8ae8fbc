"""How long a rung takes: from recoveries that have finished, of the job itself, else of the site, else what policy assumes.

Measured values are quantiles over the newest recoveries in the state. What a recovery tells of its phases holds for other
rungs that do the same in that phase: how long groups take to meet does not depend on why they meet, only on whether any
process kept its connections.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from controlplane.core.jobs import Job, Recovery
from controlplane.core.units import NS_PER_S
from controlplane.core.vocabulary import Phase, Rung

MAX_SAMPLES = 512
"""Recoveries that are looked at for one decision, the job's own first: the newest say most, and the look must be cheap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderPolicy:
    """What is assumed while nothing is measured (seconds; expected values of published systems at 50,000 accelerators), and
    the limits of the ladder.

    `announce_s`: the new rank table is known to all. `process_warm_s`, `process_cold_s`: a parked process takes its rank;
    one has to be started. `groups_s`, `groups_whole_s`: groups that lost a member are rebuilt, or all of them.
    `restore_s`: state is read back. `shrink_s`: groups are rebuilt with fewer replicas. `step_s`: one step.
    `repair_s`: a lost node comes back. `failure_every_s`: time between two failures of a job.
    `samples`: measured values that it takes to believe them. `deadline_margin`: a rung has this many times its 95th
    percentile, at least `deadline_floor_ms`, and never more than the job's own start and join time-outs.
    `pause_patience_ms`: ranks may wait this long for a peer that nobody reports lost.
    `grow_interval_ms`: after a generation began, replicas come back no sooner.
    """

    announce_s: float = 1.0
    process_warm_s: float = 3.0
    process_cold_s: float = 60.0
    groups_s: float = 15.0
    groups_whole_s: float = 75.0
    restore_s: float = 130.0
    shrink_s: float = 90.0
    step_s: float = 5.0
    repair_s: float = 72_000.0
    failure_every_s: float = 3_600.0
    samples: int = 3
    deadline_margin: float = 3.0
    deadline_floor_ms: int = 10_000
    pause_patience_ms: int = 15_000
    grow_interval_ms: int = 600_000


def quantile(samples: Sequence[float], share: float) -> float:
    """The nearest-rank quantile of at least one sample."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


Key = tuple[str, Phase]


@dataclass(frozen=True, slots=True)
class PhaseTimes:
    """Durations in seconds by what is done, of one job and of the whole site."""

    policy: LadderPolicy = field(default_factory=LadderPolicy)
    own: Mapping[Key, Sequence[float]] = field(default_factory=dict)
    site: Mapping[Key, Sequence[float]] = field(default_factory=dict)

    def expected_s(self, rung: Rung, *, warm: bool) -> float:
        """Seconds from the verdict to the first new step: the sum of the phases' medians."""
        total = 0.0
        for phase in PHASES:
            samples = self._samples(_kind(rung, phase, warm=warm), phase)
            total += quantile(samples, 0.5) if samples else self._assumed(rung, phase, warm=warm)
        return total

    def late_after_s(self, rung: Rung, *, warm: bool) -> float | None:
        """Seconds after which a rung is late; None while too little is measured to say so."""
        total = 0.0
        for phase in PHASES:
            samples = self._samples(_kind(rung, phase, warm=warm), phase)
            if not samples:
                return None
            total += quantile(samples, 0.95)
        return total * self.policy.deadline_margin

    def _samples(self, kind: str, phase: Phase) -> Sequence[float]:
        for source in (self.own, self.site):
            samples = source.get((kind, phase), ())
            if len(samples) >= self.policy.samples:
                return samples
        return ()

    def _assumed(self, rung: Rung, phase: Phase, *, warm: bool) -> float:
        policy = self.policy
        match phase:
            case Phase.PLACE:
                keeps = rung in (Rung.RETRY_STEP, Rung.ROLLBACK, Rung.SHRINK, Rung.GROW)
                return policy.announce_s if keeps else policy.process_warm_s if warm else policy.process_cold_s
            case Phase.RENDEZVOUS:
                return {Rung.RESTART_JOB: policy.groups_whole_s, Rung.SHRINK: policy.shrink_s}.get(
                    rung, policy.groups_s
                )
            case Phase.RESTORE:
                return 0.0 if rung is Rung.RETRY_STEP else policy.restore_s
            case Phase.FIRST_STEP:
                return policy.step_s
            case _:
                return 0.0


PHASES = (Phase.PLACE, Phase.START, Phase.RENDEZVOUS, Phase.RESTORE, Phase.FIRST_STEP)
"""What follows the verdict."""


def _kind(rung: str, phase: Phase, *, warm: bool) -> str:
    """Recoveries whose phase is the same work."""
    if phase is Phase.PLACE:
        return f"{rung} {'warm' if warm else 'cold'}"
    if phase is Phase.RESTORE and rung == Rung.RETRY_STEP:
        return "kept state"
    return "all anew" if rung == Rung.RESTART_JOB else "survivors"


def measure(job: Job, jobs: Iterable[Job], policy: LadderPolicy) -> PhaseTimes:
    """What the newest recoveries of a job, and of all `jobs`, took."""
    own = list(reversed(job.recoveries))[:MAX_SAMPLES]
    others: list[Recovery] = []
    for other in jobs:
        if len(own) + len(others) >= MAX_SAMPLES:
            break
        if other.uid != job.uid:
            others += list(reversed(other.recoveries))[: MAX_SAMPLES - len(own) - len(others)]
    mine = _by_kind(own)
    return PhaseTimes(policy, mine, _by_kind([*own, *others]) if others else mine)


def _by_kind(recoveries: Iterable[Recovery]) -> Mapping[Key, Sequence[float]]:
    """Seconds of each phase by what was done in it, in the order of the recoveries."""
    alike: dict[tuple[str, bool], dict[str, list[float]]] = {}
    found: dict[Key, list[float]] = {}
    for recovery in recoveries:
        if recovery.overtaken:
            continue
        rung, warm = recovery.rung, recovery.warm
        samples = alike.get((rung, warm))
        if samples is None:  # kinds of several rungs are the same list
            samples = {phase.value: found.setdefault((_kind(rung, phase, warm=warm), phase), []) for phase in PHASES}
            alike[(rung, warm)] = samples
        for phase, took in recovery.phases_ns.items():
            if phase in samples:
                samples[phase].append(took / NS_PER_S)
    return found
