"""Back-testing: recorded history under other rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from controlplane.core import records as r
from controlplane.core.jobs import Exit
from controlplane.core.recovery.backtest import TYPES, Report, backtest
from controlplane.core.spec import Budget, JobRule, Match, NodeAction, NodeRule, RestartPolicy, RuleAction
from controlplane.core.vocabulary import Blame, JobState
from tests.support.world import World, spec

OLD = Path(__file__).parents[2] / "scenarios" / "histories" / "v1.jsonl"
DAY_MS = 86_400_000
History = list[tuple[int, int, r.Record]]


def told(world: World) -> History:
    entries = world.journal.oldest(100_000, types=TYPES)
    return [(entry.revision, entry.at_ns, r.decode(entry.type, entry.version, entry.body)) for entry in entries]


@pytest.fixture(scope="module")
def history() -> History:
    """A rank exits with 1, one is killed, one exits with 42: three verdicts."""
    world = World(4)
    world.submit(spec("moe", 4))
    world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    for code in (1, 0, 42):
        world.run(4)  # parked processes are there again: a restart in place is the cheapest
        if code:
            world.end("moe", 1, Exit(observed=True, code=code, message="ValueError: boom", group_empty=True))
        else:
            world.kill_rank("moe", 2)
        world.run(0.5)
        world.run_until(lambda: world.job("moe").state is JobState.RUNNING)
    return told(world)


def rungs(report: Report) -> list[tuple[str, str]]:
    return [(change.was.rung, change.would_be.rung) for change in report.changes]


def test_the_same_rules_change_nothing(history: History) -> None:
    report = backtest(history, RestartPolicy())
    assert (report.judged, report.changes, report.incomplete) == (3, (), ())


def test_a_rule_that_names_the_rung_that_was_taken_changes_nothing(history: History) -> None:
    rule = JobRule(Match(exit_codes=(1, 42)), RuleAction.RESTART_RANK)
    assert backtest(history, RestartPolicy(job_rules=(rule,))).changes == ()


def test_a_job_that_would_have_ended_is_judged_no_further(history: History) -> None:
    rules = (JobRule(Match(exit_codes=(1,)), RuleAction.FAIL, reason="bad configuration"),)
    report = backtest(history, RestartPolicy(job_rules=rules))
    (change,) = report.changes
    assert (change.was.rung, change.would_be.rung, change.ends) == ("RESTART_RANK", "FAIL", True)
    assert change.would_be.reason == "rank 1 exited with code 1; bad configuration (jobRules[0])"
    assert change.was.reason == "rank 1 exited with code 1"
    assert report.judged == 1


def test_new_rules_charge_their_own_ledgers(history: History) -> None:
    """Under one restart a day by the user, the second exit ends the job; the kill in between is charged elsewhere."""
    report = backtest(history, RestartPolicy(user=Budget(1, DAY_MS)))
    assert rungs(report) == [("RESTART_RANK", "FAIL")]
    assert "user: 1 of 1 used" in report.changes[0].would_be.reason
    moved = JobRule(Match(exit_codes=(1,)), RuleAction.RESTART_RANK, Blame.INFRASTRUCTURE)
    report = backtest(history, RestartPolicy(user=Budget(1, DAY_MS), job_rules=(moved,)))
    assert [change.would_be.ledger for change in report.changes] == ["infrastructure"]


def test_node_rules_are_part_of_the_verdict(history: History) -> None:
    rule = NodeRule(Match(on_node=2, within_ms=DAY_MS), NodeAction.QUARANTINE)
    changes = backtest(history, RestartPolicy(node_rules=(rule,))).changes
    assert [change.would_be.nodes for change in changes] == ["quarantineNode"]


def test_only_what_was_asked_for_is_shown_and_all_of_it_is_counted(history: History) -> None:
    policy = RestartPolicy(user=Budget(1, DAY_MS))
    last = max(revision for revision, _, record in history if isinstance(record, r.RecoveryDecided))
    assert rungs(backtest(history, policy, since=last - 1)) == [("RESTART_RANK", "FAIL")]
    assert backtest(history, policy, job="other").judged == 0
    assert rungs(backtest(history, policy, job="moe-1")) == [("RESTART_RANK", "FAIL")]


def test_a_history_without_its_beginning_says_so(history: History) -> None:
    cut = [entry for entry in history if not isinstance(entry[2], r.JobSubmitted)]
    assert backtest(cut, RestartPolicy()).incomplete == ("moe-1",)
    assert backtest(cut, RestartPolicy(), job="other").incomplete == ()


def test_journals_of_older_versions_tell_their_facts_with_the_end_of_processes() -> None:
    lines = (json.loads(line) for line in OLD.read_text().splitlines())
    old = [
        (line["revision"], line["at_ns"], r.decode(line["type"], line["version"], line["body"]))
        for line in lines
        if line["type"] in TYPES
    ]
    assert backtest(old, RestartPolicy()).changes == ()
    killed = RestartPolicy(job_rules=(JobRule(Match(signals=(9,)), RuleAction.RESTART_JOB),))
    assert ("RESTART_RANK", "RESTART_JOB") in rungs(backtest(old, killed))


def test_what_the_site_believes_of_its_own_measurements_comes_from_the_policy_in_the_journal(history: History) -> None:
    """With one sample believed, the price of a restart in place is measured; by default it takes three."""
    rule = JobRule(Match(exit_codes=(1,)), RuleAction.RESTART_RANK, Blame.INFRASTRUCTURE)
    policy = RestartPolicy(job_rules=(rule,))
    told = r.PolicyChanged({"ladder.samples": 1}, "")
    (first, *_) = backtest([(0, 0, told), *history], policy).changes
    assert first.cost_would_be is not None
    assert first.cost_would_be.source == "measured"
    assert first.cost_was is not None
    assert first.cost_was.source == "what happened"
    many = r.PolicyChanged({"ladder.samples": 100}, "")
    (first, *_) = backtest([(0, 0, many), *history], policy).changes
    assert first.cost_would_be is not None
    assert first.cost_would_be.source == "unknown", "nothing published was given here"
