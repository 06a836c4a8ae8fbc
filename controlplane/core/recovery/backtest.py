"""What other restart rules would have made of recorded history. Pure.

Only records that explain decisions are read, so that archived history serves as well. Each verdict is judged anew by rules
and budgets, on the same facts; budgets are charged as the new rules charge. The ladder is not climbed again: where neither
policy names a rung it decides on the same sight of the site, hence the same. A job that new rules would have ended or
suspended is not judged further: what follows in the journal is not its history any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from controlplane.core import records as r
from controlplane.core.draft import Policy
from controlplane.core.evidence import NOTHING, Facts, Offence
from controlplane.core.jobs import NONE, Incident, Job, LostRank, Restart, root_cause
from controlplane.core.observing.losses import exit_facts_of
from controlplane.core.recovery import rules
from controlplane.core.recovery.budgets import Reading, read_budget
from controlplane.core.recovery.decide import ASKED
from controlplane.core.recovery.prices import Price, PriceBook, Range
from controlplane.core.recovery.ruling import costs_nothing, refusal
from controlplane.core.site_policy import with_values
from controlplane.core.spec import RestartPolicy, RuleAction
from controlplane.core.state import MAX_OFFENCES
from controlplane.core.vocabulary import Blame, JobState, Phase, Rung

READ = (
    r.JobSubmitted, r.HostEnded, r.RanksLost, r.RecoveryDecided, r.NodeJudged, r.GenerationReached, r.JobEnded,
    r.GenerationStarted, r.CheckpointCommitted, r.PolicyChanged,
)  # fmt: skip
TYPES = tuple(kind.__name__ for kind in READ)
"""Types of the records that are needed."""
LADDER = "what the ladder chooses"
ENDED_ENTRIES = 65_536
"""Ends of processes that are remembered until their loss is recorded; journals before 0.3 need them."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict under one policy: its rung (or LADDER), rule, ledger, and why. `restore`: which checkpoints are passed over
    (`back`: how many); `nodes`: what node rules do."""

    rung: str
    rule: str
    ledger: str
    reason: str
    restore: str = ""
    nodes: str = ""
    back: int = 0

    @property
    def effect(self) -> tuple[str, ...]:
        """What differs when the verdict does."""
        return self.rung, self.ledger, self.restore, self.nodes

    @property
    def refused(self) -> bool:
        """Whether rules or budgets let no rung be climbed."""
        return self.rung in (Rung.FAIL, Rung.SUSPEND)


@dataclass(frozen=True, slots=True)
class Change:
    """One verdict that would have been another. `ends`: what follows in the journal would not have happened. `cost_was`,
    `cost_would_be`: None where the job ends or waits."""

    revision: int
    at_ns: int
    job: str
    was: Judged
    would_be: Judged
    ends: bool
    cost_was: Price | None = None
    cost_would_be: Price | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a back-test found. `judged`: verdicts that were looked at; `incomplete`: jobs (uid) whose beginning is not in the
    history any more."""

    judged: int
    changes: tuple[Change, ...]
    incomplete: tuple[str, ...]


@dataclass(slots=True)
class _Past:
    """A job as its records tell it; `charges` of the journal and of the new rules."""

    job: Job
    policy: RestartPolicy
    charges: tuple[Restart, ...] = ()
    new_charges: tuple[Restart, ...] = ()
    over: bool = False


@dataclass(slots=True)
class Backtest:
    """Folds records, oldest first; `report` when all are told.

    `policy`: the rules to try. `job`: name or uid of the only job that is judged, "" for all. `since`: only verdicts after
    this revision, and not before `since_ns` (Unix ns), are shown; earlier ones still charge. `prices`: what costs are read from.
    """

    policy: RestartPolicy
    job: str = ""
    since: int = 0
    since_ns: int = 0
    prices: PriceBook = field(default_factory=PriceBook)
    _jobs: dict[str, _Past] = field(default_factory=dict)
    _ended: dict[tuple[str, int], Facts] = field(default_factory=dict)
    _offences: tuple[Offence, ...] = ()
    _judged: int = 0
    _changes: list[Change] = field(default_factory=list)
    _incomplete: dict[str, None] = field(default_factory=dict)

    @property
    def report(self) -> Report:
        """What was found so far."""
        return Report(self._judged, tuple(map(self._priced, self._changes)), tuple(self._incomplete))

    def _priced(self, change: Change) -> Change:
        rung = None if change.would_be.rung == LADDER else Rung(change.would_be.rung)
        return replace(
            change,
            cost_was=self.prices.was(change.revision),
            cost_would_be=self.prices.would_be(change.revision, rung, change.would_be.back),
        )

    def tell(self, revision: int, at_ns: int, record: r.Record) -> None:
        """Take the next record."""
        self.prices.tell(revision, at_ns, record)
        match record:
            case r.PolicyChanged():
                self.prices.ladder = with_values(Policy(), record.settings).ladder
            case r.JobSubmitted():
                job = Job(record.name, record.uid, record.serial, record.spec, JobState.RECOVERING, at_ns)
                self._jobs[record.uid] = _Past(job, record.spec.restart_policy)
            case r.HostEnded():
                if len(self._ended) >= ENDED_ENTRIES:
                    self._ended.clear()
                self._ended[(record.job, record.serial)] = exit_facts_of(record.exit, revision)
            case r.RanksLost():
                self._lost(record, at_ns)
            case r.RecoveryDecided():
                self._decided(revision, at_ns, record)
            case r.GenerationReached():
                past = self._jobs.get(record.job)
                if past is not None and record.phase is Phase.FIRST_STEP:
                    past.job.incident = None
            case r.JobEnded():
                self._jobs.pop(record.job, None)
            case _:
                pass

    def _lost(self, record: r.RanksLost, at_ns: int) -> None:
        past = self._jobs.get(record.job)
        if past is None:
            return
        lost = tuple(self._with_facts(record.job, entry) for entry in record.lost)
        before = past.job.incident
        opened = Incident(
            at_ns, at_ns, 0, lost, record.step, record.cause, step_known=record.step_known, why=record.why,
            released=record.released,
        )  # fmt: skip
        if before is None or (before.decided_ns and before.rung != Rung.SUSPEND):
            past.job.incident = opened
            return
        known = {entry.rank for entry in before.lost}
        past.job.incident = replace(
            before,
            lost=(*before.lost, *(entry for entry in lost if entry.rank not in known)),
            decided_ns=0,
            released=before.released or record.released,
            step_known=before.step_known or record.step_known,
        )

    def _with_facts(self, uid: str, entry: LostRank) -> LostRank:
        """Journals from before there were facts tell them with the end of the process."""
        if entry.facts != NOTHING:
            return entry
        return replace(entry, facts=self._ended.get((uid, entry.serial), NOTHING))

    def _decided(self, revision: int, at_ns: int, record: r.RecoveryDecided) -> None:
        past = self._jobs.get(record.job)
        wanted = self.job in ("", record.job, past.job.name if past else record.job.rpartition("-")[0])
        if past is None:
            if wanted:
                self._incomplete[record.job] = None
            return
        incident = past.job.incident
        if incident is None or costs_nothing(incident):
            return  # an operator wanted it: no rule was asked
        before = self._offences
        self._offences = (*before, *([record.offence] if record.offence else []))[-MAX_OFFENCES:]
        past.job.incident = replace(incident, decided_ns=at_ns, rung=record.rung)
        if wanted and not past.over:
            self._compare(revision, at_ns, record, past, before)
        if record.charged:
            past.charges = (*past.charges, Restart(record.blame, at_ns, record.step))

    def _compare(
        self, revision: int, at_ns: int, record: r.RecoveryDecided, past: _Past, offences: tuple[Offence, ...]
    ) -> None:
        due = record.charged or record.rung in (Rung.FAIL, Rung.SUSPEND)
        incident = past.job.incident
        assert incident is not None
        root = root_cause(incident.lost)
        node = record.offence.node if record.offence else NONE
        case = replace(rules.case_of(past.job, root, offences, at_ns), node=node)
        cause = root.cause if root else incident.cause

        def judge(policy: RestartPolicy, charges: tuple[Restart, ...]) -> tuple[Judged, RuleAction]:
            past.job.spec = replace(past.job.spec, restart_policy=policy)
            past.job.restarts = charges
            choice = rules.choose(policy, case, released=incident.released)
            reading = read_budget(past.job, choice.ledger, at_ns, record.step, known=incident.step_known)
            return _judged(choice, cause, reading if due else None, _places(policy, case)), choice.action

        then, old_action = judge(past.policy, past.charges)
        would_be, action = judge(self.policy, past.new_charges)
        was = replace(then, rung=record.rung.value, ledger=record.blame.value, reason=record.reason)
        if action is old_action and not would_be.refused and not then.refused:
            would_be = replace(would_be, rung=was.rung)  # asked for the same on the same sight
        ends = would_be.refused and would_be.rung != was.rung
        past.over = ends
        if record.charged and not ends:
            past.new_charges = (*past.new_charges, Restart(Blame(would_be.ledger), at_ns, record.step))
        if revision <= self.since or at_ns < self.since_ns:
            return
        self._judged += 1
        if was.effect != would_be.effect:
            self._changes.append(Change(revision, at_ns, past.job.name, was, would_be, ends))


def _judged(choice: rules.Choice, cause: str, reading: Reading | None, nodes: str) -> Judged:
    refused = refusal(choice, cause, reading, "")
    if refused is not None:
        return Judged(refused[0].value, choice.rule, choice.ledger.value, refused[1], nodes=nodes)
    rung = ASKED.get(choice.action)
    why = f"{cause}; {rules.told(choice)}" if rung else cause
    restore = f"{choice.back} checkpoints passed over{' and poisoned' if choice.poison else ''}" if choice.back else ""
    return Judged(rung.value if rung else LADDER, choice.rule, choice.ledger.value, why, restore, nodes, choice.back)


def _places(policy: RestartPolicy, case: rules.Case) -> str:
    return ", ".join(one.rule.action.value for one in rules.judge_node(policy, case) if not one.mismatch)


def backtest(
    records: Iterable[tuple[int, int, r.Record]],
    policy: RestartPolicy,
    *,
    job: str = "",
    since: int = 0,
    since_ns: int = 0,
    published: Mapping[Rung, Range] | None = None,
) -> Report:
    """The report on a whole history: (revision, Unix ns, record), oldest first. `published`: see `prices.PriceBook`."""
    test = Backtest(policy, job, since, since_ns, PriceBook(published or {}))
    for revision, at_ns, record in records:
        test.tell(revision, at_ns, record)
    return test.report
