"""What recorded verdicts cost, and what others would have cost, in accelerator-seconds. Pure: records in, oldest first.

The price of a rung is the job's devices times the seconds from the verdict to the next step, and the work that is made again.
Seconds are measured on the recoveries of the history itself, of the job, else of the site; a rung of which too few are there
has what is published (`published`: low, expected, high), and says so. What did happen has its own price, without a range.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from controlplane.core import records as r
from controlplane.core.recovery.phase_times import LadderPolicy, quantile
from controlplane.core.units import to_s
from controlplane.core.vocabulary import Phase, Rung

Range = tuple[float, float, float]
"""Low, expected and high, in seconds."""
MAX_SAMPLES = 512
"""Measured durations that are kept by job and rung; the newest."""
MAX_STEPS = 256
"""Steps of complete checkpoints that are remembered of a job."""
QUANTILES = (0.05, 0.5, 0.95)
LADDER_RUNGS = (Rung.RESTART_RANK, Rung.REPLACE_RANK, Rung.RESTART_JOB)
"""Between which a ladder that nobody has climbed may end, cheapest first; it most likely leaves a node behind."""


@dataclass(frozen=True, slots=True)
class Price:
    """Accelerator-seconds, and where they come from: `measured`, `published`, or `what happened`."""

    low: float
    expected: float
    high: float
    source: str


@dataclass(slots=True)
class _Case:
    """One verdict. `steps`: of the checkpoints that were complete then, oldest first; `restore_step`, `back_ns`: what came of
    it, -1 and 0 while nothing has."""

    job: str
    devices: int
    rung: Rung
    step: int
    decided_ns: int
    steps: tuple[int, ...]
    restore_step: int = -1
    back_ns: int = 0


@dataclass(slots=True)
class _Job:
    devices: int
    steps: list[int] = field(default_factory=list)
    restored: int = 0
    running_ns: int = 0
    worked_s: float = 0.0
    worked_steps: int = 0
    case: _Case | None = None


@dataclass(slots=True)
class PriceBook:
    """Reads a history; `was` and `would_be` price its verdicts by their revision, once all of it was told."""

    published: Mapping[Rung, Range] = field(default_factory=dict)
    ladder: LadderPolicy = field(default_factory=LadderPolicy)
    _jobs: dict[str, _Job] = field(default_factory=dict)
    _cases: dict[int, _Case] = field(default_factory=dict)
    _own: dict[tuple[str, Rung], list[float]] = field(default_factory=dict)
    _site: dict[Rung, list[float]] = field(default_factory=dict)

    def tell(self, revision: int, at_ns: int, record: r.Record) -> None:
        """Take the next record."""
        if isinstance(record, r.JobSubmitted):
            self._jobs[record.uid] = _Job(record.spec.ranks * record.spec.accelerators_per_rank)
            return
        job = self._jobs.get(getattr(record, "job", ""))
        if job is None:
            return
        match record:
            case r.CheckpointCommitted():
                job.steps = [*(step for step in job.steps if step != record.step), record.step][-MAX_STEPS:]
            case r.RanksLost():
                _worked(job, at_ns, record.step)
            case r.RecoveryDecided():
                case = _Case(record.job, job.devices, record.rung, record.step, at_ns, tuple(sorted(job.steps)))
                job.case = self._cases[revision] = case
            case r.GenerationStarted():
                job.restored = record.restore_step
                if job.case is not None:
                    job.case.restore_step = record.restore_step
            case r.GenerationReached() if record.phase is Phase.FIRST_STEP:
                self._runs(job, record.at_ns or at_ns)
            case _:
                pass

    def _runs(self, job: _Job, at_ns: int) -> None:
        job.running_ns = at_ns
        case, job.case = job.case, None
        if case is None or case.restore_step < 0:
            return
        case.back_ns = at_ns
        took_s = max(0.0, to_s(at_ns - case.decided_ns))
        for samples in (self._own.setdefault((case.job, case.rung), []), self._site.setdefault(case.rung, [])):
            samples.append(took_s)
            del samples[:-MAX_SAMPLES]

    def was(self, revision: int) -> Price | None:
        """What a recorded verdict cost; a range where another fault overtook it, None where it ended the job."""
        case = self._cases.get(revision)
        if case is None or case.rung in (Rung.FAIL, Rung.SUSPEND):
            return None
        if not case.back_ns:
            return self._price(case, (case.rung,), 0)
        again_s = max(0, case.step - case.restore_step) * self._step_s(case.job)
        cost = case.devices * (to_s(case.back_ns - case.decided_ns) + again_s)
        return Price(cost, cost, cost, "what happened")

    def would_be(self, revision: int, rung: Rung | None, back: int = 0) -> Price | None:
        """What another rung would have cost in place of a recorded verdict. `rung`: None for what the ladder chooses; `back`:
        so many checkpoints are passed over. None where the job ends or waits."""
        case = self._cases.get(revision)
        if case is None or rung in (Rung.FAIL, Rung.SUSPEND):
            return None
        return self._price(case, LADDER_RUNGS if rung is None else (rung,), back)

    def _price(self, case: _Case, rungs: Iterable[Rung], back: int) -> Price:
        ranges = [self._seconds(case.job, rung) for rung in rungs]
        again_s = self._redone_s(case, back, kept=all(rung is Rung.RETRY_STEP for rung in rungs))
        low = min(seconds[0] for seconds, _ in ranges)
        expected = sorted(seconds[1] for seconds, _ in ranges)[len(ranges) // 2]
        high = max(seconds[2] for seconds, _ in ranges)
        sources = dict.fromkeys(source for _, source in ranges)
        devices = case.devices
        return Price(
            devices * (low + again_s), devices * (expected + again_s), devices * (high + again_s), " and ".join(sources)
        )

    def _seconds(self, job: str, rung: Rung) -> tuple[Range, str]:
        for samples in (self._own.get((job, rung), []), self._site.get(rung, [])):
            if len(samples) >= self.ladder.samples:
                low, expected, high = (quantile(samples, share) for share in QUANTILES)
                return (low, expected, high), "measured"
        return self.published.get(rung, (0.0, 0.0, 0.0)), "published" if rung in self.published else "unknown"

    def _redone_s(self, case: _Case, back: int, *, kept: bool) -> float:
        """Seconds of work that is made again: what was lost when it happened, or more when checkpoints are passed over."""
        if kept:
            return 0.0
        usable = case.steps[: bisect_right(case.steps, case.step)]
        restored = case.restore_step
        if back or restored < 0:
            restored = usable[-1 - back] if len(usable) > back else 0
        return max(0, case.step - restored) * self._step_s(case.job)

    def _step_s(self, uid: str) -> float:
        """How long a step of the job takes, over all of the history."""
        job = self._jobs[uid]
        return job.worked_s / job.worked_steps if job.worked_steps else self.ladder.step_s


def _worked(job: _Job, at_ns: int, step: int) -> None:
    """The job has run until now and has made steps since it last began."""
    made = step - job.restored
    if job.running_ns and made > 0:
        job.worked_s += max(0.0, to_s(at_ns - job.running_ns))
        job.worked_steps += made
    job.running_ns = 0
