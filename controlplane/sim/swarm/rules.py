"""Restart rules of a seed's jobs: every feature of job rules and node rules is drawn now and then."""

from __future__ import annotations

from random import Random

from controlplane.core.evidence import Reason
from controlplane.core.spec import JobRule, Match, NodeAction, NodeRule, RuleAction
from controlplane.core.vocabulary import Blame
from controlplane.sim.faults.health import CODES
from controlplane.sim.faults.machines import FELL_OFF_THE_BUS

UNOBSERVED = -1

MATCHES = (
    Match(exit_codes=(1, 2)),
    Match(exit_codes=(42,)),
    Match(exit_codes=(UNOBSERVED,)),
    Match(signals=(9,)),
    Match(signals=(9, 15), senders=("oom",)),
    Match(senders=("agent",)),
    Match(senders=("unknown",)),
    Match(signals=(11,)),
    Match(fault_levels=("ISOLATE", "RETURN_TO_VENDOR")),
    Match(fault_levels=("RESTART_PROCESS", "RESET_NOW")),
    Match(fault_levels=("unknown",), reasons=(Reason.KILLED,)),
    Match(fault_codes=(FELL_OFF_THE_BUS,)),
    Match(fault_codes=CODES[:4]),
    Match(message="loss is (nan|inf)"),
    Match(message="^(Runtime|OS)Error: .*(injected|device)"),
    Match(message="unknown", blames=(Blame.USER,)),
    Match(reasons=(Reason.EXITED, Reason.UNFINISHED)),
    Match(reasons=(Reason.NODE_DEAD, Reason.VANISHED)),
    Match(reasons=(Reason.LATE, Reason.COLLECTIVE_FAILED)),
    Match(reasons=(Reason.DEVICE_FAULT,)),
    Match(reasons=(Reason.RESTORE_FAILED,)),
    Match(blames=(Blame.USER,)),
    Match(blames=(Blame.INFRASTRUCTURE,), ranks="0-3,8"),
    Match(ranks="first"),
    Match(ranks="last"),
    Match(ranks="all"),
    Match(coordinates=(("dp", (0, 2, 4)),)),
    Match(coordinates=(("tp", (1,)), ("ep", (0,)))),
    Match(of_rank=2, within_ms=3_600_000),
    Match(on_node=2, within_ms=2 * 3_600_000),
    Match(on_node=3, within_ms=6 * 3_600_000, blames=(Blame.INFRASTRUCTURE,)),
)
"""Conditions that rules are drawn from; together they use every field of `Match`."""

ACTIONS = (
    RuleAction.RETRY_STEP, RuleAction.RESTART_RANK, RuleAction.RESTART_RANK, RuleAction.REPLACE_RANK,
    RuleAction.REPLACE_RANK, RuleAction.RESTART_JOB, RuleAction.ROLLBACK, RuleAction.ROLLBACK, RuleAction.SUSPEND,
    RuleAction.FAIL,
)  # fmt: skip
"""What job rules choose; those that end a job's work are rare, for nothing happens to it afterwards."""


def job_rules(random: Random) -> tuple[JobRule, ...]:
    """None, or up to five, in the order in which they were drawn."""
    return tuple(_job_rule(random) for _ in range(random.choice([0, 0, 1, 2, 3, 5])))


def _job_rule(random: Random) -> JobRule:
    match, action = random.choice(MATCHES), random.choice(ACTIONS)
    if action in (RuleAction.FAIL, RuleAction.SUSPEND) and random.random() < 0.7:
        action = RuleAction.RESTART_JOB
    ledger = random.choice([None, None, *Blame])
    if action is not RuleAction.ROLLBACK:
        return JobRule(match, action, ledger, "drawn")
    return JobRule(
        match, action, ledger, "drawn", checkpoints=random.choice([1, 1, 2]), then_poison=random.random() < 0.5
    )


def node_rules(random: Random) -> tuple[NodeRule, ...]:
    """None, or up to two."""
    count = random.choice([0, 0, 1, 2])
    return tuple(NodeRule(random.choice(MATCHES), random.choice(tuple(NodeAction)), "drawn") for _ in range(count))
