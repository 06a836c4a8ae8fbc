"""Restart rules are obeyed: the first that matches chooses, all node rules are judged, by a second reading of both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from controlplane.core import records as r
from controlplane.core.jobs import NONE, LostRank
from controlplane.core.spec import JobRule, Match, NodeAction, RuleAction
from controlplane.core.units import ms
from controlplane.core.vocabulary import Rung
from controlplane.sim.checkers.base import Checker, Durable, Finding
from controlplane.sim.checkers.book import Book
from controlplane.sim.checkers.incidents import IncidentLine, Incidents
from controlplane.sim.checkers.lines import JobLine

UNKNOWN = "unknown"

ASKED = {
    RuleAction.RETRY_STEP: Rung.RETRY_STEP,
    RuleAction.ROLLBACK: Rung.ROLLBACK,
    RuleAction.RESTART_RANK: Rung.RESTART_RANK,
    RuleAction.REPLACE_RANK: Rung.REPLACE_RANK,
    RuleAction.RESTART_JOB: Rung.RESTART_JOB,
    RuleAction.SUSPEND: Rung.SUSPEND,
    RuleAction.FAIL: Rung.FAIL,
}
LADDER = list(Rung)


class RulesAreObeyed(Checker):
    """Which rule a verdict names, and what it leads to, against the job's rules and the losses that the journal holds."""

    invariant = "rules"
    watches = (*Incidents.WATCHES, r.NodeJudged)

    def __init__(self) -> None:
        self._incidents = Incidents()

    def record(self, seen: Durable, book: Book) -> Iterator[Finding]:
        """Judge verdicts, then read what is new."""
        match seen.record:
            case r.RecoveryDecided(job=uid) if uid in self._incidents.running:
                yield from self._verdict(seen.record, book.jobs[uid], book, seen.at_ns)
            case r.NodeJudged(job=uid) if uid in self._incidents.running:
                yield from self._place(seen.record, book.jobs[uid], book, seen.at_ns)
            case _:
                pass
        self._incidents.fold(seen.record, book)

    def _verdict(self, record: r.RecoveryDecided, job: JobLine, book: Book, now_ns: int) -> Iterator[Finding]:
        incident = self._incidents.running[job.uid]
        if record.rung is Rung.GROW:
            yield from _grows(record, incident, job)
            return
        if incident.free:
            if record.rule:
                yield Finding(job.uid, f"{record.rule} of {job.uid} chose where nothing had failed")
            return
        number, rule = self._first(job, incident, book, now_ns)
        wanted = f"jobRules[{number}]" if rule else ""
        named = record.rule if record.rule.startswith("jobRules") else ""
        if named != wanted:
            root = incident.root
            what = f"{root.facts}" if root else incident.why
            yield Finding(
                job.uid,
                f"{wanted or 'no rule'} of {job.uid} matches first, the verdict names {named or 'none'}: {what}",
            )
        elif rule:
            yield from _followed(record, rule, job)

    def _first(self, job: JobLine, incident: IncidentLine, book: Book, now_ns: int) -> tuple[int, JobRule | None]:
        for number, rule in enumerate(job.spec.restart_policy.job_rules):
            suspends = rule.action is RuleAction.SUSPEND and incident.released
            if not suspends and self._matches(rule.match, job, incident, book, now_ns):
                return number, rule
        return NONE, None

    def _place(self, record: r.NodeJudged, job: JobLine, book: Book, now_ns: int) -> Iterator[Finding]:
        incident = self._incidents.running[job.uid]
        matched = [
            rule
            for rule in job.spec.restart_policy.node_rules
            if self._matches(rule.match, job, incident, book, now_ns)
        ]
        actions = {rule.action for rule in matched}
        strongest = NodeAction.QUARANTINE if NodeAction.QUARANTINE in actions else next(iter(actions), None)
        done = record.action or next((line for line in record.rules if "not done" in line), "")
        if (strongest is None) != (not done):
            text = f"node rules of {job.uid} say {strongest or 'nothing'} of {record.node}; what was done: {done or 'nothing'}"
            yield Finding(job.uid, text)
        elif strongest is not None and record.action and record.action != strongest:
            yield Finding(
                job.uid, f"node rules of {job.uid} say {strongest} of {record.node}, {record.action} was done"
            )

    def _matches(self, match: Match, job: JobLine, incident: IncidentLine, book: Book, now_ns: int) -> bool:
        root = incident.root
        return (
            _seen(match, incident, root)
            and _who(match, job, incident, root)
            and self._often(match, job, root, book, now_ns)
        )

    def _often(self, match: Match, job: JobLine, root: LostRank | None, book: Book, now_ns: int) -> bool:
        for least, of_rank in ((match.of_rank, True), (match.on_node, False)):
            if not least:
                continue
            node = self._incidents.where(job.uid, root, book) if root else NONE
            if root is None or (not of_rank and node == NONE):
                return False
            earlier = [
                known
                for known in self._incidents.offences
                if known.at_ns > now_ns - ms(match.within_ms)
                and (known.job, known.rank, known.at_ns) != (job.uid, root.rank, root.fault_ns)
                and ((known.job, known.rank) == (job.uid, root.rank) if of_rank else known.node == node)
            ]
            if 1 + len(earlier) < least:
                return False
        return True


def _grows(record: r.RecoveryDecided, incident: IncidentLine, job: JobLine) -> Iterator[Finding]:
    """Replicas come back to a job that works, where none of its ranks has failed: nothing is charged, no rule is asked, and
    those who come had left."""
    if incident.lost:
        yield Finding(job.uid, f"{job.uid} is to grow, and ranks {sorted(incident.lost)} were lost")
    elif record.rule or record.charged or record.offence is not None:
        whose = record.rule or f"the {record.blame} ledger"
        yield Finding(job.uid, f"{job.uid} is to grow, and {whose} is asked where nothing had failed")
    elif there := sorted(set(record.ranks) & job.taking_part_now):
        yield Finding(job.uid, f"{job.uid} is to grow by ranks {there}, which take part already")


def _followed(record: r.RecoveryDecided, rule: JobRule, job: JobLine) -> Iterator[Finding]:
    """FAIL and SUSPEND to the letter; of a rung, nothing cheaper while that rung or a dearer one could work."""
    asked = ASKED[rule.action]
    if asked in (Rung.FAIL, Rung.SUSPEND):
        if record.rung is not asked:
            yield Finding(job.uid, f"{record.rule} of {job.uid} says {rule.action}, and {record.rung} follows")
        return
    could = [rung for rung in LADDER[LADDER.index(asked) :] if _was_open(record, rung)]
    if LADDER.index(record.rung) < LADDER.index(asked) and could:
        text = f"{record.rule} of {job.uid} says {rule.action}, {could[0]} could work, and {record.rung} follows"
        yield Finding(job.uid, text)


def _was_open(record: r.RecoveryDecided, rung: Rung) -> bool:
    return any(told.startswith(f"{rung}: ") and "expected loss" in told for told in record.tried)


def _seen(match: Match, incident: IncidentLine, root: LostRank | None) -> bool:
    """Conditions on what was observed; what nobody observed is matched only by its own word."""
    facts = root.facts if root else None
    blame = root.blame if root else "infrastructure"
    message = facts.message if facts else ""
    return (
        _any(match.exit_codes, facts.exit_code if facts else -1)
        and _any(match.signals, facts.signal if facts else -1)
        and _any(match.senders, (facts.sender if facts else "") or UNKNOWN)
        and _any(match.fault_levels, (facts.fault_level if facts else "") or UNKNOWN)
        and _any(match.fault_codes, (facts.fault_code if facts else "") or UNKNOWN)
        and _any(match.reasons, (facts.reason if facts else incident.why) or UNKNOWN)
        and _any(match.blames, blame)
        and (not match.message or _message(match.message, message))
    )


def _any(wanted: Iterable[object], seen: object) -> bool:
    values = list(wanted)
    return not values or seen in values


def _message(pattern: str, message: str) -> bool:
    return not message if pattern == UNKNOWN else bool(message) and re.search(pattern, message) is not None


def _who(match: Match, job: JobLine, incident: IncidentLine, root: LostRank | None) -> bool:
    """Conditions on the rank that is the root, and on how many were lost."""
    spec = job.spec
    if match.ranks == "all":
        return len(incident.lost) == spec.ranks
    if not match.ranks and not match.coordinates:
        return True
    if root is None:
        return False
    if match.ranks and not _among(match.ranks, root.rank, spec.ranks):
        return False
    at = spec.parallel.coordinates(root.rank)
    return all(at[axis] in wanted for axis, wanted in match.coordinates)


def _among(group: str, rank: int, ranks: int) -> bool:
    if group in ("first", "last"):
        return rank == (0 if group == "first" else ranks - 1)
    spans = [part.split("-") for part in group.split(",")]
    return any(int(span[0]) <= rank <= int(span[-1]) for span in spans)
