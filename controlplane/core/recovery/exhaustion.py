"""Out of memory: what the exit of a rank says about who ran out of it, and why. Pure.

The kernel's kill (SIGKILL, sender `oom`) and the workload's own error (12) are the user's. An error while the routing gave the
rank's experts several times their share (13, the rank library's word) is nobody's place: other tokens, other rank. It is
charged to the infrastructure's ledger, which has room for many, and counts against no node.
"""

from __future__ import annotations

from controlplane.core.evidence import SIGNALS, Facts
from controlplane.core.spec import JobRule, Match, RuleAction
from controlplane.core.vocabulary import Blame

WORKLOAD = 12
"""Exit code of the rank library: the workload's own code ran out of memory (ENOMEM)."""
ROUTING = 13
"""The same while the fullest expert on the rank had several times its share."""

KILL = SIGNALS["SIGKILL"]
_RULES = {
    WORKLOAD: (
        "the rule for memory that the workload ran out of (12)",
        JobRule(Match(exit_codes=(WORKLOAD,)), RuleAction.AUTO, Blame.USER, "the workload ran out of memory"),
    ),
    ROUTING: (
        "the rule for memory that uneven routing took (13)",
        JobRule(
            Match(exit_codes=(ROUTING,)), RuleAction.AUTO, Blame.INFRASTRUCTURE,
            "uneven routing gave its experts more than fits, no node is to blame",
        ),
    ),
    128 + KILL: (
        "the rule for processes that the kernel killed for memory",
        JobRule(
            Match(signals=(KILL,), senders=("oom",)), RuleAction.AUTO, Blame.USER, "the kernel killed it for want of memory"
        ),
    ),
}  # fmt: skip


def rules_for(facts: Facts) -> tuple[tuple[str, JobRule], ...]:
    """The rule that always stands after a job's own for such an end; none for others."""
    if facts.exit_code == 128 + KILL and facts.sender != "oom":
        return ()
    named = _RULES.get(facts.exit_code)
    return () if named is None else (named,)


def excuses_node(facts: Facts) -> bool:
    """Whether the end says that no place is to blame."""
    return facts.exit_code == ROUTING
