"""Restart rules: an incident in, the first job rule that matches out, with why each earlier one did not. Pure.

Job rules are ordered and the first match wins; after the job's own come the rules for silent corruption and for want of
memory, and an implicit last one that leaves the rung to the ladder. Node rules are all evaluated and never replace the job's
verdict. What was not observed is `unknown` and matches only `unknown`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from controlplane.core.checkpoints import Checkpoint
from controlplane.core.evidence import NO_SENDER, UNKNOWN, UNOBSERVED, Facts, Offence
from controlplane.core.health.numbers import KINDS, MOST_SKIPS
from controlplane.core.jobs import NONE, Job, LostRank
from controlplane.core.recovery.corruption import suspicion
from controlplane.core.recovery.exhaustion import excuses_node, rules_for
from controlplane.core.recovery.patterns import compiled, in_group
from controlplane.core.spec import JobRule, Match, NodeRule, Parallel, RestartPolicy, RuleAction
from controlplane.core.units import ms
from controlplane.core.vocabulary import Blame

IMPLICIT = "the implicit last rule"

DISAGREE_AGAIN = "the rule for results that disagree again (17)"

_PERSISTENT = (
    DISAGREE_AGAIN,
    JobRule(Match(), RuleAction.REPLACE_RANK, Blame.INFRASTRUCTURE, "silent corruption"),
)
_TRANSIENT = (
    "the rule for results that disagree once (16)",
    JobRule(Match(), RuleAction.RESTART_RANK, Blame.INFRASTRUCTURE, "silent corruption is suspected"),
)

NUMBERS_OFF = "the rule for numbers that are off"


@dataclass(frozen=True, slots=True)
class Case:
    """What rules judge: the root of an incident, and what happened before it.

    `rank`, `node`: of the root, NONE when no rank was lost; `lost`: ranks that the incident took, of `ranks`. `offences`:
    earlier incidents of the site. `skips`: stretches of batches that the job leaves out already.
    """

    facts: Facts
    blame: Blame
    rank: int
    node: int
    lost: int
    ranks: int
    parallel: Parallel
    offences: Sequence[Offence]
    job: str
    now_ns: int
    fault_ns: int = 0
    skips: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """What the job rules chose. `tried`: each rule that was looked at, with why it did not match, the chosen one last.

    `back`: so many of the newest checkpoints are passed over; `poison`: and poisoned.
    """

    rule: str
    action: RuleAction
    ledger: Blame
    reason: str
    tried: tuple[str, ...]
    back: int = 0
    poison: bool = False


@dataclass(frozen=True, slots=True)
class NodeChoice:
    """What one node rule says of the root's node; `mismatch` "" when it matches."""

    name: str
    rule: NodeRule
    mismatch: str


def case_of(job: Job, root: LostRank | None, offences: Sequence[Offence], now_ns: int) -> Case:
    """The case of a job's running incident. `root`: its root cause, None when no rank was lost."""
    incident = job.incident
    counted = counted_before(job, root, offences)
    place = int(job.rank_node[root.rank]) if root is not None and job.placed else NONE
    return Case(
        facts=root.facts if root else Facts(incident.why if incident else ""),
        blame=root.blame if root else _blame_without_loss(job),
        rank=root.rank if root else NONE,
        node=counted.node if counted else place,
        lost=len(incident.lost) if incident else 0,
        ranks=job.spec.ranks,
        parallel=job.spec.parallel,
        offences=offences,
        job=job.uid,
        now_ns=now_ns,
        fault_ns=root.fault_ns if root else 0,
        skips=len(job.numbers.skips),
    )


def _blame_without_loss(job: Job) -> Blame:
    off = job.incident is not None and job.incident.why in KINDS
    return job.numbers.blame if off else Blame.INFRASTRUCTURE


def counted_before(job: Job, root: LostRank | None, offences: Sequence[Offence]) -> Offence | None:
    """What an earlier verdict on the same incident counted against the root, whose rank may have moved since."""
    if root is None:
        return None
    mine = (offence for offence in reversed(offences) if offence.at_ns == root.fault_ns)
    return next((offence for offence in mine if (offence.job, offence.rank) == (job.uid, root.rank)), None)


def offence_of(case: Case) -> Offence:
    """What an incident counts as against its root's rank and node."""
    return Offence(case.job, case.rank, case.node, case.fault_ns, case.blame, case.facts.exit_code)


def choose(policy: RestartPolicy, case: Case, *, released: bool = False) -> Choice:
    """The first job rule that matches.

    Args:
        policy: the job's rules.
        case: the incident.
        released: an operator has let the job go on: rules that suspend it do not count any more.
    """
    tried: list[str] = []
    own = ((f"jobRules[{index}]", rule) for index, rule in enumerate(policy.job_rules))
    sign = suspicion(case.offences, offence_of(case))
    always = () if sign is None else (_PERSISTENT,) if sign.persistent else (_TRANSIENT,)
    if case.facts.reason in KINDS:
        always = (_numbers_off(case),)
    for name, rule in (*own, *always, *rules_for(case.facts)):
        why_not = mismatch(rule.match, case)
        if not why_not and released and rule.action is RuleAction.SUSPEND:
            why_not = "an operator has released the job"
        if why_not:
            tried.append(f"{name}: {why_not}")
            continue
        tried.append(f"{name}: matches, {rule.action}")
        ledger = rule.ledger or case.blame
        return Choice(name, rule.action, ledger, rule.reason, tuple(tried), rule.checkpoints, rule.then_poison)
    tried.append(f"{IMPLICIT}: matches, the ladder decides")
    return Choice(IMPLICIT, RuleAction.AUTO, case.blame, "", tuple(tried))


def _numbers_off(case: Case) -> tuple[str, JobRule]:
    """The last word on numbers that are off: back to before the first bad step, until too many batches are left out."""
    if case.blame is Blame.USER and case.skips > MOST_SKIPS:
        text = (
            f"batches were left out {MOST_SKIPS} times already and numbers are off again: look at the data, the learning rate "
            "or the precision"
        )
        return NUMBERS_OFF, JobRule(Match(), RuleAction.FAIL, case.blame, text)
    return NUMBERS_OFF, JobRule(Match(), RuleAction.ROLLBACK, case.blame, "back to before the first bad step")


def told(choice: Choice) -> str:
    """What a rule says, for the reason of a verdict."""
    return f"{choice.reason} ({choice.rule})" if choice.reason else f"{choice.rule} says {choice.action}"


def node_told(one: NodeChoice, job: str) -> str:
    """What a node rule says, for the reason of a cordon."""
    return f"{one.rule.reason or 'it matches'} ({one.name} of {job})"


def rollback_limit(checkpoints: Iterable[Checkpoint], choice: Choice | None) -> int:
    """No newer step may be restored: 0 is initial weights, NONE any. The newest `back` steps with a restorable checkpoint are
    passed over."""
    if choice is None or choice.action is not RuleAction.ROLLBACK or not choice.back:
        return NONE
    steps = sorted({checkpoint.step for checkpoint in checkpoints if checkpoint.restorable}, reverse=True)
    return steps[choice.back] if choice.back < len(steps) else 0


def judge_node(policy: RestartPolicy, case: Case) -> tuple[NodeChoice, ...]:
    """Every node rule on the root's node; none when the incident has no node, or says that none is to blame."""
    if case.node == NONE or excuses_node(case.facts):
        return ()
    return tuple(
        NodeChoice(f"nodeRules[{index}]", rule, mismatch(rule.match, case))
        for index, rule in enumerate(policy.node_rules)
    )


def mismatch(match: Match, case: Case) -> str:
    """The first condition that does not hold, in words; "" when all do."""
    facts = case.facts
    return (
        _number("exit code", match.exit_codes, facts.exit_code)
        or _number("signal", match.signals, facts.signal)
        or _word("sender", match.senders, facts.sender)
        or _word("fault level", match.fault_levels, facts.fault_level)
        or _word("fault code", match.fault_codes, facts.fault_code)
        or _word("reason", match.reasons, facts.reason)
        or _word("blame", match.blames, case.blame)
        or _message(match.message, facts.message)
        or _group(match, case)
        or _offender(match, case)
    )


def _number(what: str, wanted: tuple[int, ...], seen: int) -> str:
    if not wanted or seen in wanted:
        return ""
    shown = {UNOBSERVED: UNKNOWN, **({0: NO_SENDER} if what == "signal" else {})}.get(seen, str(seen))
    return f"{what} is {shown}, not {' or '.join(UNKNOWN if n == UNOBSERVED else str(n) for n in wanted)}"


def _word(what: str, wanted: Iterable[str], seen: str) -> str:
    names = tuple(wanted)
    shown = seen or UNKNOWN
    return "" if not names or shown in names else f"{what} is {shown}, not {' or '.join(names)}"


def _message(pattern: str, message: str) -> str:
    if not pattern:
        return ""
    if pattern == UNKNOWN:
        return "there is a message" if message else ""
    if not message:
        return f"there is no message to search for {pattern!r}"
    return "" if compiled(pattern).search(message) is not None else f"the message does not hold {pattern!r}"


def _group(match: Match, case: Case) -> str:
    if match.ranks == "all":
        return "" if case.lost == case.ranks else f"{case.lost} of {case.ranks} ranks are lost, not all"
    if not match.ranks and not match.coordinates:
        return ""
    if case.rank == NONE:
        return "no rank was lost"
    if match.ranks and not in_group(match.ranks, case.rank, case.ranks):
        return f"rank {case.rank} is not among {match.ranks}"
    at = case.parallel.coordinates(case.rank)
    for axis, wanted in match.coordinates:
        if at[axis] not in wanted:
            return f"{axis} of rank {case.rank} is {at[axis]}, not {' or '.join(map(str, wanted))}"
    return ""


def _offender(match: Match, case: Case) -> str:
    for what, least, number in (("rank", match.of_rank, case.rank), ("node", match.on_node, case.node)):
        if not least:
            continue
        if number == NONE:
            return f"no {what} is to blame"
        count = 1 + earlier(case, what, match.within_ms)
        if count < least:
            return f"{count} failure{'s' * (count != 1)} of the {what} within {match.within_ms / 1000:g} s, not {least}"
    return ""


def earlier(case: Case, what: str, within_ms: int) -> int:
    """Earlier incidents of the case's rank, or on its node, inside a sliding window. One that is decided again is no second
    one."""
    since, itself = case.now_ns - ms(within_ms), (case.job, case.rank, case.fault_ns)
    recent = (o for o in case.offences if o.at_ns > since and (o.job, o.rank, o.at_ns) != itself)
    if what == "rank":
        return sum(1 for offence in recent if (offence.job, offence.rank) == (case.job, case.rank))
    return sum(1 for offence in recent if offence.node == case.node)
