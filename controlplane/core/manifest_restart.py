"""The restart policy of a manifest: reading `restartPolicy` with its rules, and writing it out again."""

from __future__ import annotations

from controlplane.core.durations import format_duration
from controlplane.core.evidence import AXES, SENDERS, SIGNALS, UNKNOWN, UNOBSERVED, Reason
from controlplane.core.manifest_rules import policy_findings, touches
from controlplane.core.manifest_section import Section
from controlplane.core.rule_checks import MAX_RULES, MAX_VALUES
from controlplane.core.spec import (
    UNLIMITED,
    Backoff,
    Budget,
    JobRule,
    Match,
    NodeAction,
    NodeRule,
    RestartPolicy,
    RuleAction,
    Violation,
)
from controlplane.core.vocabulary import Blame, HandlingLevel

JOB_ACTIONS = tuple(action.value for action in RuleAction if action is not RuleAction.AUTO)
NODE_ACTIONS = tuple(action.value for action in NodeAction)
LEDGERS = tuple(blame.value for blame in Blame)
LEVELS = (*(level.name for level in HandlingLevel), UNKNOWN)
REASONS = (*(reason.value for reason in Reason), UNKNOWN)
_UNKNOWN_NUMBER = {UNKNOWN: UNOBSERVED}
_SIGNAL_NAMES = {**SIGNALS, **_UNKNOWN_NUMBER}


def parse_policy(document: object) -> tuple[RestartPolicy | None, tuple[Violation, ...]]:
    """The restart policy of a document: a mapping with `restartPolicy`, alone or under the `spec` of a whole manifest; and
    everything that is wrong with it. A policy only when nothing is."""
    violations: list[Violation] = []
    root = Section(document, "", violations)
    whole = "restartPolicy" not in root.fields and "spec" in root.fields
    holder = root.section("spec") if whole else root
    read = holder.section("restartPolicy", required=True)
    if not (root.usable and holder.usable and read.usable):
        return None, tuple(violations)
    policy, path = read_restart_policy(read), read.at("")
    broken = {violation.path for violation in violations}
    violations += [
        found for found, reads in policy_findings(policy, path) if not any(touches(p, broken) for p in reads)
    ]
    return (None if violations else policy), tuple(violations)


def read_restart_policy(section: Section) -> RestartPolicy:
    """The policy of a section; what is wrong is noted there."""
    default = RestartPolicy()
    budgets = section.section("budgets")
    backoff = section.section("backoff")
    policy = RestartPolicy(
        collect_window_ms=section.duration("collectWindow", default.collect_window_ms),
        user=_budget(budgets, "user", default.user),
        infrastructure=_budget(budgets, "infrastructure", default.infrastructure),
        preemption=_budget(budgets, "preemption", default.preemption),
        backoff=Backoff(
            backoff.duration("initial", default.backoff.initial_ms),
            backoff.number("factor", default.backoff.factor),
            backoff.duration("max", default.backoff.max_ms),
            backoff.number("jitter", default.backoff.jitter),
        ),
        retry_step=section.flag("retryStep"),
        job_rules=tuple(map(_job_rule, section.items("jobRules", MAX_RULES))),
        node_rules=tuple(map(_node_rule, section.items("nodeRules", MAX_RULES))),
    )
    for part in (budgets, backoff, section):
        part.finish()
    return policy


def _budget(section: Section, name: str, default: Budget) -> Budget:
    nested = section.section(name)
    if nested.fields.get("max") == "unlimited":
        nested.take("max")
        maximum = UNLIMITED
    else:
        maximum = nested.integer("max", default.max)
        if "max" in nested.fields and maximum < 0 and not touches(nested.at("max"), nested.broken()):
            nested.note("max", "must be 0 or more", "write a number, or `max: unlimited`")
    budget = Budget(
        maximum,
        nested.duration("window", default.window_ms),
        nested.integer("resetOnProgress", default.reset_on_progress),
    )
    nested.finish()
    return budget


def _job_rule(section: Section) -> JobRule:
    ledger = section.choice("ledger", LEDGERS)
    action = section.choice("action", JOB_ACTIONS, required=True)
    rule = JobRule(
        match=_match(section.section("match", required=True)),
        action=RuleAction(action) if action in JOB_ACTIONS else RuleAction.AUTO,
        ledger=Blame(ledger) if ledger in LEDGERS else None,
        reason=section.text("reason"),
        checkpoints=section.integer("checkpoints", 1 if action == RuleAction.ROLLBACK else 0),
        then_poison=section.flag("thenPoison"),
    )
    section.finish()
    return rule


def _node_rule(section: Section) -> NodeRule:
    action = section.choice("action", NODE_ACTIONS, required=True)
    rule = NodeRule(
        match=_match(section.section("match", required=True)),
        action=NodeAction(action) if action in NODE_ACTIONS else NodeAction.CORDON,
        reason=section.text("reason"),
    )
    section.finish()
    return rule


def _match(section: Section) -> Match:
    fault = section.section("fault")
    coordinates = section.section("coordinates")
    of_rank, on_node = section.integer("failuresOfRank", 0), section.integer("failuresOnNode", 0)
    match = Match(
        exit_codes=section.numbers("exitCode", _UNKNOWN_NUMBER, MAX_VALUES),
        signals=section.numbers("signal", _SIGNAL_NAMES, MAX_VALUES),
        senders=_known(section, "sender", SENDERS),
        fault_levels=_known(fault, "level", LEVELS),
        fault_codes=fault.words("code", MAX_VALUES),
        message=section.text("message"),
        reasons=_known(section, "reason", REASONS),
        blames=tuple(Blame(word) for word in _known(section, "blame", LEDGERS) if word in LEDGERS),
        ranks=_ranks(section),
        coordinates=tuple(
            (axis, coordinates.numbers(axis, {}, MAX_VALUES)) for axis in AXES if coordinates.take(axis)[0]
        ),
        of_rank=of_rank,
        on_node=on_node,
        within_ms=section.duration("within", 0),
    )
    for part in (fault, coordinates, section):
        part.finish()
    return match


def _known(section: Section, name: str, choices: tuple[str, ...]) -> tuple[str, ...]:
    """Words of a list of choices."""
    found = section.words(name, MAX_VALUES)
    for word in found:
        if not section.known(name, word, choices):
            return ()
    return found


def _ranks(section: Section) -> str:
    """`first`, `last`, `all`, a rank, ranges as text, or a list of these."""
    parts = section.values("ranks", MAX_VALUES)
    if any(isinstance(part, bool) or not isinstance(part, int | str) for part in parts):
        section.note("ranks", "does not name ranks", "write first, last, all, a number, or ranges as `0-3,8`")
        return ""
    return ",".join(map(str, parts))


# --- writing ---------------------------------------------------------------------------------------------------------


def policy_document(policy: RestartPolicy) -> dict[str, object]:
    """The full document of a policy; reading it gives the policy back."""
    return {
        "collectWindow": format_duration(policy.collect_window_ms),
        "budgets": {
            "user": _budget_document(policy.user),
            "infrastructure": _budget_document(policy.infrastructure),
            "preemption": _budget_document(policy.preemption),
        },
        "backoff": {
            "initial": format_duration(policy.backoff.initial_ms),
            "factor": policy.backoff.factor,
            "max": format_duration(policy.backoff.max_ms),
            "jitter": policy.backoff.jitter,
        },
        "retryStep": policy.retry_step,
        "jobRules": [_job_rule_document(rule) for rule in policy.job_rules],
        "nodeRules": [
            {"match": match_document(rule.match), "action": rule.action.value, "reason": rule.reason}
            for rule in policy.node_rules
        ],
    }


def _budget_document(budget: Budget) -> dict[str, object]:
    return {
        "max": "unlimited" if budget.max == UNLIMITED else budget.max,
        "window": format_duration(budget.window_ms),
        "resetOnProgress": budget.reset_on_progress,
    }


def _job_rule_document(rule: JobRule) -> dict[str, object]:
    document: dict[str, object] = {"match": match_document(rule.match), "action": rule.action.value}
    if rule.ledger:
        document["ledger"] = rule.ledger.value
    if rule.action is RuleAction.ROLLBACK:
        document |= {"checkpoints": rule.checkpoints, "thenPoison": rule.then_poison}
    return {**document, "reason": rule.reason}


def match_document(match: Match) -> dict[str, object]:
    """The conditions of a match that are given."""
    names = {number: name for name, number in SIGNALS.items()} | {UNOBSERVED: UNKNOWN}
    fault = {"level": list(match.fault_levels), "code": list(match.fault_codes)}
    document: dict[str, object] = {
        "exitCode": [UNKNOWN if code == UNOBSERVED else code for code in match.exit_codes],
        "signal": [names.get(number, number) for number in match.signals],
        "sender": list(match.senders),
        "fault": {name: values for name, values in fault.items() if values},
        "message": match.message,
        "reason": list(match.reasons),
        "blame": [blame.value for blame in match.blames],
        "ranks": match.ranks,
        "coordinates": {axis: list(values) for axis, values in match.coordinates},
        "failuresOfRank": match.of_rank,
        "failuresOnNode": match.on_node,
        "within": format_duration(match.within_ms) if match.within_ms else "",
    }
    return {name: value for name, value in document.items() if value}
