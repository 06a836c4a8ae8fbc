"""Restart policies between `phalanx.v1` and the core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from phalanx.v1 import types_pb2 as pb

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
from controlplane.core.vocabulary import Blame
from controlplane.rpc.errors import refuse_fields

ACTIONS: Mapping[pb.RuleAction.ValueType, RuleAction] = {
    pb.RULE_ACTION_UNSPECIFIED: RuleAction.AUTO,
    pb.RULE_ACTION_FAIL: RuleAction.FAIL,
    pb.RULE_ACTION_RETRY_STEP: RuleAction.RETRY_STEP,
    pb.RULE_ACTION_RESTART_RANK: RuleAction.RESTART_RANK,
    pb.RULE_ACTION_REPLACE_RANK: RuleAction.REPLACE_RANK,
    pb.RULE_ACTION_RESTART_JOB: RuleAction.RESTART_JOB,
    pb.RULE_ACTION_ROLLBACK: RuleAction.ROLLBACK,
    pb.RULE_ACTION_SUSPEND: RuleAction.SUSPEND,
}
NODE_ACTIONS: Mapping[pb.NodeRuleAction.ValueType, NodeAction] = {
    pb.NODE_RULE_ACTION_QUARANTINE_NODE: NodeAction.QUARANTINE,
    pb.NODE_RULE_ACTION_CORDON_NODE: NodeAction.CORDON,
}
LEDGERS: Mapping[pb.Ledger.ValueType, Blame | None] = {
    pb.LEDGER_UNSPECIFIED: None,
    pb.LEDGER_USER: Blame.USER,
    pb.LEDGER_INFRASTRUCTURE: Blame.INFRASTRUCTURE,
    pb.LEDGER_PREEMPTION: Blame.PREEMPTION,
}
Number = TypeVar("Number", bound=int)
Word = TypeVar("Word")


def policy_value(message: pb.RestartPolicySpec) -> RestartPolicy:
    """A restart policy; its rules are `core.manifest.check_spec`'s to check.

    Raises:
        RequestRefused: a word that this version does not know: a newer client.
    """
    backoff = message.backoff
    jitter = backoff.jitter if backoff.HasField("jitter") else Backoff().jitter
    path = "spec.restartPolicy"
    return RestartPolicy(
        collect_window_ms=message.collect_window_ms,
        retry_step=message.retry_step,
        user=_budget(message.user),
        infrastructure=_budget(message.infrastructure),
        preemption=_budget(message.preemption),
        backoff=Backoff(backoff.initial_ms, backoff.factor, backoff.max_ms, jitter),
        job_rules=tuple(_job_rule(rule, f"{path}.jobRules[{i}]") for i, rule in enumerate(message.job_rules)),
        node_rules=tuple(_node_rule(rule, f"{path}.nodeRules[{i}]") for i, rule in enumerate(message.node_rules)),
    )


def _budget(message: pb.BudgetSpec) -> Budget:
    return Budget(UNLIMITED if message.unlimited else message.max, message.window_ms, message.reset_on_progress_steps)


def _job_rule(message: pb.JobRule, path: str) -> JobRule:
    return JobRule(
        match=_match(message.match, f"{path}.match"),
        action=_word(ACTIONS, message.action, f"{path}.action"),
        ledger=_word(LEDGERS, message.ledger, f"{path}.ledger"),
        reason=message.reason,
        checkpoints=message.checkpoints,
        then_poison=message.then_poison,
    )


def _node_rule(message: pb.NodeRule, path: str) -> NodeRule:
    action = _word(NODE_ACTIONS, message.action, f"{path}.action")
    return NodeRule(_match(message.match, f"{path}.match"), action, message.reason)


def _match(message: pb.RuleMatch, path: str) -> Match:
    blames = (_word(LEDGERS, number, f"{path}.blame") for number in message.blames)
    return Match(
        exit_codes=tuple(message.exit_codes),
        signals=tuple(message.signals),
        senders=tuple(message.senders),
        fault_levels=tuple(message.fault_levels),
        fault_codes=tuple(message.fault_codes),
        message=message.message,
        reasons=tuple(message.reasons),
        blames=tuple(blame for blame in blames if blame),
        ranks=message.ranks,
        coordinates=tuple((one.axis, tuple(one.values)) for one in message.coordinates),
        of_rank=message.failures_of_rank,
        on_node=message.failures_on_node,
        within_ms=message.within_ms,
    )


def _word(known: Mapping[Number, Word], number: Number, path: str) -> Word:
    if number not in known:
        refuse_fields([Violation(path, f"{number} is not known here", "ask a controller of a newer version")])
    return known[number]


# --- to messages -----------------------------------------------------------------------------------------------------


def policy_message(policy: RestartPolicy) -> pb.RestartPolicySpec:
    """The wire form of a restart policy, every field written out."""
    backoff = policy.backoff
    return pb.RestartPolicySpec(
        collect_window_ms=policy.collect_window_ms,
        retry_step=policy.retry_step,
        user=_budget_message(policy.user),
        infrastructure=_budget_message(policy.infrastructure),
        preemption=_budget_message(policy.preemption),
        backoff=pb.BackoffSpec(
            initial_ms=backoff.initial_ms, factor=backoff.factor, max_ms=backoff.max_ms, jitter=backoff.jitter
        ),
        job_rules=[
            pb.JobRule(
                match=_match_message(rule.match),
                action=_number(ACTIONS, rule.action),
                ledger=_number(LEDGERS, rule.ledger),
                reason=rule.reason,
                checkpoints=rule.checkpoints,
                then_poison=rule.then_poison,
            )
            for rule in policy.job_rules
        ],
        node_rules=[
            pb.NodeRule(match=_match_message(rule.match), action=_number(NODE_ACTIONS, rule.action), reason=rule.reason)
            for rule in policy.node_rules
        ],
    )


def _budget_message(budget: Budget) -> pb.BudgetSpec:
    unlimited = budget.max == UNLIMITED
    return pb.BudgetSpec(
        unlimited=unlimited,
        max=0 if unlimited else budget.max,
        window_ms=budget.window_ms,
        reset_on_progress_steps=budget.reset_on_progress,
    )


def _match_message(match: Match) -> pb.RuleMatch:
    return pb.RuleMatch(
        exit_codes=match.exit_codes,
        signals=match.signals,
        senders=match.senders,
        fault_levels=match.fault_levels,
        fault_codes=match.fault_codes,
        message=match.message,
        reasons=match.reasons,
        blames=[_number(LEDGERS, blame) for blame in match.blames],
        ranks=match.ranks,
        coordinates=[pb.RuleMatch.Coordinate(axis=axis, values=values) for axis, values in match.coordinates],
        failures_of_rank=match.of_rank,
        failures_on_node=match.on_node,
        within_ms=match.within_ms,
    )


def _number(known: Mapping[Number, Word], word: Word) -> Number:
    return next(number for number, name in known.items() if name == word)
