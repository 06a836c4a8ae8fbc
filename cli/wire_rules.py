"""Restart policies between core values and messages, for the client; imports messages only when it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
)
from controlplane.core.vocabulary import Blame

if TYPE_CHECKING:
    from phalanx.v1 import types_pb2


def _numbered(action: RuleAction | NodeAction | Blame | None) -> str:
    """The name of a word's number without its prefix: `restartRank` is RESTART_RANK."""
    if action is None or action is RuleAction.AUTO:
        return "UNSPECIFIED"
    return "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in action.value)


def policy_to_message(policy: RestartPolicy) -> types_pb2.RestartPolicySpec:
    """The request form of a restart policy."""
    from phalanx.v1 import types_pb2 as pb  # noqa: PLC0415

    def budget(value: Budget) -> types_pb2.BudgetSpec:
        unlimited = value.max == UNLIMITED
        return pb.BudgetSpec(
            unlimited=unlimited,
            max=0 if unlimited else value.max,
            window_ms=value.window_ms,
            reset_on_progress_steps=value.reset_on_progress,
        )

    backoff = policy.backoff
    return pb.RestartPolicySpec(
        collect_window_ms=policy.collect_window_ms,
        retry_step=policy.retry_step,
        user=budget(policy.user),
        infrastructure=budget(policy.infrastructure),
        preemption=budget(policy.preemption),
        backoff=pb.BackoffSpec(
            initial_ms=backoff.initial_ms, factor=backoff.factor, max_ms=backoff.max_ms, jitter=backoff.jitter
        ),
        job_rules=[
            pb.JobRule(
                match=_match_message(rule.match),
                action=pb.RuleAction.Value(f"RULE_ACTION_{_numbered(rule.action)}"),
                ledger=pb.Ledger.Value(f"LEDGER_{_numbered(rule.ledger)}"),
                reason=rule.reason,
                checkpoints=rule.checkpoints,
                then_poison=rule.then_poison,
            )
            for rule in policy.job_rules
        ],
        node_rules=[
            pb.NodeRule(
                match=_match_message(rule.match),
                action=pb.NodeRuleAction.Value(f"NODE_RULE_ACTION_{_numbered(rule.action)}"),
                reason=rule.reason,
            )
            for rule in policy.node_rules
        ],
    )


def _match_message(match: Match) -> types_pb2.RuleMatch:
    from phalanx.v1 import types_pb2 as pb  # noqa: PLC0415

    return pb.RuleMatch(
        exit_codes=match.exit_codes,
        signals=match.signals,
        senders=match.senders,
        fault_levels=match.fault_levels,
        fault_codes=match.fault_codes,
        message=match.message,
        reasons=match.reasons,
        blames=[pb.Ledger.Value(f"LEDGER_{_numbered(blame)}") for blame in match.blames],
        ranks=match.ranks,
        coordinates=[pb.RuleMatch.Coordinate(axis=axis, values=values) for axis, values in match.coordinates],
        failures_of_rank=match.of_rank,
        failures_on_node=match.on_node,
        within_ms=match.within_ms,
    )


def policy_value(message: types_pb2.RestartPolicySpec) -> RestartPolicy:
    """The restart policy in a message. Words of a newer controller are read as not given."""

    def budget(value: types_pb2.BudgetSpec) -> Budget:
        return Budget(UNLIMITED if value.unlimited else value.max, value.window_ms, value.reset_on_progress_steps)

    backoff = message.backoff
    jitter = backoff.jitter if backoff.HasField("jitter") else 0.0
    return RestartPolicy(
        collect_window_ms=message.collect_window_ms,
        retry_step=message.retry_step,
        user=budget(message.user),
        infrastructure=budget(message.infrastructure),
        preemption=budget(message.preemption),
        backoff=Backoff(backoff.initial_ms, backoff.factor, backoff.max_ms, jitter),
        job_rules=tuple(
            JobRule(
                match=_match_value(rule.match),
                action=_action(rule.action),
                ledger=_ledger(rule.ledger),
                reason=rule.reason,
                checkpoints=rule.checkpoints,
                then_poison=rule.then_poison,
            )
            for rule in message.job_rules
        ),
        node_rules=tuple(
            NodeRule(_match_value(rule.match), _node_action(rule.action), rule.reason) for rule in message.node_rules
        ),
    )


def _match_value(message: types_pb2.RuleMatch) -> Match:
    return Match(
        exit_codes=tuple(message.exit_codes),
        signals=tuple(message.signals),
        senders=tuple(message.senders),
        fault_levels=tuple(message.fault_levels),
        fault_codes=tuple(message.fault_codes),
        message=message.message,
        reasons=tuple(message.reasons),
        blames=tuple(blame for blame in map(_ledger, message.blames) if blame),
        ranks=message.ranks,
        coordinates=tuple((one.axis, tuple(one.values)) for one in message.coordinates),
        of_rank=message.failures_of_rank,
        on_node=message.failures_on_node,
        within_ms=message.within_ms,
    )


def _action(number: int) -> RuleAction:
    from phalanx.v1 import types_pb2 as pb  # noqa: PLC0415

    known = {int(pb.RuleAction.Value(f"RULE_ACTION_{_numbered(action)}")): action for action in RuleAction}
    return known.get(number, RuleAction.AUTO)


def _node_action(number: int) -> NodeAction:
    from phalanx.v1 import types_pb2 as pb  # noqa: PLC0415

    known = {int(pb.NodeRuleAction.Value(f"NODE_RULE_ACTION_{_numbered(action)}")): action for action in NodeAction}
    return known.get(number, NodeAction.CORDON)


def _ledger(number: int) -> Blame | None:
    from phalanx.v1 import types_pb2 as pb  # noqa: PLC0415

    return {int(pb.Ledger.Value(f"LEDGER_{_numbered(blame)}")): blame for blame in Blame}.get(number)
