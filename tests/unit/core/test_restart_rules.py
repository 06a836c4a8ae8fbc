"""Restart rules: what matches, what was tried, and what is unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controlplane.core.evidence import NO_SENDER, Facts, Offence, Reason, exit_facts
from controlplane.core.jobs import NONE
from controlplane.core.recovery.patterns import PatternError, compiled, is_group
from controlplane.core.recovery.rules import IMPLICIT, Case, choose, judge_node, mismatch
from controlplane.core.spec import JobRule, Match, NodeAction, NodeRule, Parallel, RestartPolicy, RuleAction
from controlplane.core.units import NS_PER_S
from controlplane.core.vocabulary import Blame

NOW = 100_000 * NS_PER_S
HOUR_MS = 3_600_000
EXIT_42 = Facts(Reason.EXITED, 42, 0, NO_SENDER, message="ValueError: loss is nan at step 7")
EXIT_12, EXIT_13 = (Facts(Reason.EXITED, code, 0, NO_SENDER) for code in (12, 13))
OOM = Facts(Reason.KILLED, 137, 9, "oom", message="")
KILLED = Facts(Reason.KILLED, 137, 9)
FAULT = Facts(Reason.DEVICE_FAULT, fault_level="ISOLATE", fault_code="XID-79")
DEAD = Facts(Reason.NODE_DEAD)


def case(facts: Facts = EXIT_42, rank: int = 5, *, offences: tuple[Offence, ...] = (), lost: int = 1) -> Case:
    return Case(
        facts, Blame.USER, rank, 2, lost, 16, Parallel(tp=2, pp=2, dp=4, ep=2), offences, "moe-1", NOW, NOW
    )  # fmt: skip


def offence(age_s: float, rank: int = 5, node: int = 2, job: str = "moe-1", code: int = 1) -> Offence:
    return Offence(job, rank, node, NOW - round(age_s * NS_PER_S), Blame.USER, code)


@pytest.mark.parametrize(
    ("match", "facts", "why_not"),
    [
        (Match(), EXIT_42, ""),
        (Match(exit_codes=(1, 42)), EXIT_42, ""),
        (Match(exit_codes=(43,)), EXIT_42, "exit code is 42, not 43"),
        (Match(exit_codes=(137,)), OOM, ""),
        (Match(exit_codes=(137,)), DEAD, "exit code is unknown, not 137"),
        (Match(exit_codes=(-1,)), DEAD, ""),
        (Match(exit_codes=(-1,)), EXIT_42, "exit code is 42, not unknown"),
        (Match(signals=(9,), senders=("oom",)), OOM, ""),
        (Match(signals=(9,), senders=("oom",)), KILLED, "sender is unknown, not oom"),
        (Match(senders=("unknown",)), KILLED, ""),
        (Match(senders=("unknown",)), EXIT_42, "sender is none, not unknown"),
        (Match(signals=(-1,)), EXIT_42, "signal is none, not unknown"),
        (Match(fault_levels=("ISOLATE", "RETURN_TO_VENDOR")), FAULT, ""),
        (Match(fault_levels=("CORDON",)), FAULT, "fault level is ISOLATE, not CORDON"),
        (Match(fault_levels=("ISOLATE",)), EXIT_42, "fault level is unknown, not ISOLATE"),
        (Match(fault_codes=("XID-79",)), FAULT, ""),
        (Match(reasons=("nodeDead",)), DEAD, ""),
        (Match(blames=(Blame.INFRASTRUCTURE,)), EXIT_42, "blame is user, not infrastructure"),
        (Match(message="(?i)LOSS IS NAN"), EXIT_42, ""),
        (Match(message="diverged"), EXIT_42, "the message does not hold 'diverged'"),
        (Match(message=".*"), DEAD, "there is no message to search for '.*'"),
        (Match(message="unknown"), DEAD, ""),
        (Match(message="unknown"), EXIT_42, "there is a message"),
    ],
)
def test_conditions(match: Match, facts: Facts, why_not: str) -> None:
    assert mismatch(match, case(facts)) == why_not


@pytest.mark.parametrize(
    ("match", "rank", "lost", "matches"),
    [
        (Match(ranks="first"), 0, 1, True),
        (Match(ranks="first"), 5, 1, False),
        (Match(ranks="last"), 15, 1, True),
        (Match(ranks="0-3,5"), 5, 1, True),
        (Match(ranks="0-3,6"), 5, 1, False),
        (Match(ranks="all"), 5, 15, False),
        (Match(ranks="all"), 5, 16, True),
        (Match(ranks="first"), NONE, 0, False),
        # tp innermost, then dp, pp: rank 13 is tp 1, dp 2, pp 1, ep 0
        (Match(coordinates=(("pp", (1,)), ("dp", (2, 3)), ("ep", (0,)))), 13, 1, True),
        (Match(coordinates=(("ep", (1,)),)), 13, 1, False),
    ],
)
def test_rank_groups(match: Match, rank: int, lost: int, matches: bool) -> None:
    assert (not mismatch(match, case(rank=rank, lost=lost))) is matches


def test_offenders_are_counted_in_a_sliding_window_and_this_one_with_them() -> None:
    within = Match(of_rank=3, within_ms=HOUR_MS)
    twice = (offence(10), offence(3_599))
    assert mismatch(within, case(offences=twice)) == ""
    assert "2 failures of the rank" in mismatch(within, case(offences=(offence(10), offence(3_600))))
    assert mismatch(within, case(offences=(offence(1, rank=6), offence(2, job="other-2"))))
    decided_again = (offence(0), offence(10))
    assert "2 failures of the rank" in mismatch(within, case(offences=decided_again)), "itself counts once"
    on_node = Match(on_node=3, within_ms=HOUR_MS)
    assert mismatch(on_node, case(offences=(offence(5, rank=9), offence(6, job="other-2")))) == ""


def test_the_first_match_wins_and_says_what_was_tried() -> None:
    policy = RestartPolicy(
        job_rules=(
            JobRule(Match(exit_codes=(1,)), RuleAction.FAIL),
            JobRule(Match(message="nan"), RuleAction.ROLLBACK, reason="diverged", checkpoints=2, then_poison=True),
            JobRule(Match(), RuleAction.SUSPEND),
        )
    )
    choice = choose(policy, case())
    assert (choice.rule, choice.action, choice.ledger) == ("jobRules[1]", RuleAction.ROLLBACK, Blame.USER)
    assert (choice.back, choice.poison) == (2, True)
    assert choice.tried == ("jobRules[0]: exit code is 42, not 1", "jobRules[1]: matches, rollback")
    assert choose(policy, case(DEAD)).action is RuleAction.SUSPEND
    freed = choose(policy, case(DEAD), released=True)
    assert freed.rule == IMPLICIT
    assert "jobRules[2]: an operator has released the job" in freed.tried


def test_without_rules_the_ladder_decides_but_corruption_has_rules_of_its_own() -> None:
    assert choose(RestartPolicy(), case()).action is RuleAction.AUTO
    corrupt = choose(RestartPolicy(), case(replace(EXIT_42, exit_code=17)))
    assert (corrupt.action, corrupt.ledger) == (RuleAction.REPLACE_RANK, Blame.INFRASTRUCTURE)
    own = RestartPolicy(job_rules=(JobRule(Match(exit_codes=(17,)), RuleAction.FAIL),))
    assert choose(own, case(replace(EXIT_42, exit_code=17))).action is RuleAction.FAIL


def test_a_rule_may_charge_another_ledger() -> None:
    policy = RestartPolicy(job_rules=(JobRule(Match(), RuleAction.RESTART_RANK, Blame.INFRASTRUCTURE),))
    assert choose(policy, case()).ledger is Blame.INFRASTRUCTURE


def test_all_node_rules_are_evaluated() -> None:
    policy = RestartPolicy(
        node_rules=(
            NodeRule(Match(on_node=2, within_ms=HOUR_MS), NodeAction.QUARANTINE),
            NodeRule(Match(exit_codes=(42,)), NodeAction.CORDON),
        )
    )
    judged = judge_node(policy, case())
    assert [one.mismatch for one in judged] == ["1 failure of the node within 3600 s, not 2", ""]
    assert judge_node(policy, replace(case(), node=NONE)) == ()


@pytest.mark.parametrize("pattern", ["(", "a{1001}", "(?=x)", r"(a)\1", "x" * 501, r"(\pL{200}|\pN{200}){4}"])
def test_patterns_that_are_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        compiled(pattern)


def test_a_pattern_that_blows_up_elsewhere_takes_linear_time_here() -> None:
    assert compiled("(a*)*b").search("a" * 1_000) is None


@pytest.mark.parametrize("text", ["3-1", "1,", "x", "-1", "1--2", ",".join(["1"] * 65), "1" * 5_000])
def test_what_names_no_ranks(text: str) -> None:
    assert not is_group(text)


def test_a_shell_hands_signals_on_as_exit_codes() -> None:
    def told(code: int, signal: int, sender: str = "") -> Facts:
        return exit_facts(observed=True, code=code, signal=signal, sender=sender, message=" x\n")

    assert told(137, 0) == Facts("", 137, 9, "", message="x")
    assert told(0, 9, "oom") == Facts("", 137, 9, "oom", message="x")
    assert told(0, 9, "unknown").sender == ""
    assert told(255, 0) == Facts("", 255, 0, NO_SENDER, message="x")
    assert exit_facts(observed=False, code=0, signal=0, sender="", message="") == Facts()


@pytest.mark.parametrize(
    ("facts", "ledger", "reason"),
    [
        (OOM, Blame.USER, "the kernel killed it for want of memory"),
        (EXIT_12, Blame.USER, "the workload ran out of memory"),
        (EXIT_13, Blame.INFRASTRUCTURE, "uneven routing gave its experts more than fits, no node is to blame"),
    ],
)
def test_want_of_memory_is_told_apart_and_a_jobs_own_rule_goes_before(facts: Facts, ledger: Blame, reason: str) -> None:
    chosen = choose(RestartPolicy(), case(facts))
    assert (chosen.action, chosen.ledger, chosen.reason) == (RuleAction.AUTO, ledger, reason)
    own = RestartPolicy(job_rules=(JobRule(Match(exit_codes=(12, 13, 137)), RuleAction.FAIL),))
    assert choose(own, case(facts)).rule == "jobRules[0]"


def test_a_sigkill_of_nobody_knows_whom_is_no_want_of_memory() -> None:
    assert choose(RestartPolicy(), case(KILLED)).rule == IMPLICIT
    assert choose(RestartPolicy(), case(Facts(Reason.EXITED, 1, 0, NO_SENDER))).rule == IMPLICIT


def test_uneven_routing_is_held_against_no_node() -> None:
    policy = RestartPolicy(node_rules=(NodeRule(Match(), NodeAction.QUARANTINE),))
    assert judge_node(policy, case(EXIT_13)) == ()
    assert [one.mismatch for one in judge_node(policy, case(EXIT_12))] == [""]
