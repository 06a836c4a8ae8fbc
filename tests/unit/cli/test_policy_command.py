"""`phalanx policy backtest` and the warnings of `phalanx submit`: what is read, shown, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_controller import FakeController
from phalanx.v1 import event_pb2

from cli.errors import Exit
from controlplane.core.recovery.backtest import TYPES

HISTORY = Path(__file__).parents[2] / "scenarios" / "histories" / "v1.jsonl"
SAME = "restartPolicy: {collectWindow: 1s}\n"
FAILS = """
restartPolicy:
  jobRules:
    - {match: {exitCode: 1, message: boom}, action: fail, reason: bad configuration}
    - {match: {exitCode: 1, message: boom}, action: suspend}
"""
Phalanx = Callable[..., Any]


@pytest.fixture
def recorded(controller: FakeController) -> FakeController:
    lines = map(json.loads, HISTORY.read_text().splitlines())
    controller.history = [
        event_pb2.Record(
            revision=line["revision"], at_unix_ns=line["at_ns"], type=line["type"], version=line["version"],
            body_json=line["body"],
        )
        for line in lines
        if line["type"] in TYPES
    ]  # fmt: skip
    return controller


def write(folder: Path, text: str) -> str:
    (folder / "rules.yaml").write_text(text)
    return "rules.yaml"


def test_rules_that_change_nothing_end_with_0(phalanx: Phalanx, recorded: FakeController, tmp_path: Path) -> None:
    outcome = phalanx("policy", "backtest", write(tmp_path, SAME))
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err == "12 verdicts judged anew, none would change\n"


def test_each_verdict_that_changes_is_shown_with_both_reasons(
    phalanx: Phalanx, recorded: FakeController, tmp_path: Path
) -> None:
    outcome = phalanx("policy", "backtest", write(tmp_path, FAILS), "--job", "moe")
    assert outcome.code == Exit.ERROR
    assert "rules.yaml:5: restartPolicy.jobRules[1]: is never reached" in outcome.err
    assert outcome.out.splitlines() == [
        "revision 175, moe",
        "  was:      RESTART_RANK charged to user: rank 1 exited with code 1 [the implicit last rule]",
        "            cost 3 accelerator-s (what happened)",
        "  would be: FAIL: rank 1 exited with code 1; bad configuration (jobRules[0]) [jobRules[0]]",
        "            costs: the job ends",
        "  later verdicts of this job are not judged: it would not have gone on",
    ]
    found = json.loads(phalanx("policy", "backtest", "rules.yaml", "-o", "json").out)
    assert found["changes"][0]["would_be"]["rung"] == "FAIL"
    assert phalanx("policy", "backtest", "rules.yaml", "-o", "name").out == "175\n"
    assert phalanx("policy", "backtest", "rules.yaml", "--since", "175").code == 0
    assert phalanx("policy", "backtest", "rules.yaml", "--since", "1970-01-01").code == Exit.ERROR
    for record in recorded.history:
        record.at_unix_ns -= record.at_unix_ns // 2
    assert phalanx("policy", "backtest", "rules.yaml", "--since", "2h").code == 0, "the history is older"


def test_a_rung_that_was_never_taken_has_the_published_price_and_a_total(
    phalanx: Phalanx, recorded: FakeController, tmp_path: Path
) -> None:
    rules = "restartPolicy:\n  jobRules:\n    - {match: {exitCode: 1}, action: restartJob}\n"
    outcome = phalanx("policy", "backtest", write(tmp_path, rules), "--job", "moe")
    assert outcome.code == Exit.ERROR
    assert "(published)" in outcome.out
    assert "in all +" in outcome.err
    (change, *_) = json.loads(phalanx("policy", "backtest", "rules.yaml", "--job", "moe", "-o", "json").out)["changes"]
    assert change["cost_would_be"]["low"] < change["cost_would_be"]["expected"] < change["cost_would_be"]["high"]


@pytest.mark.parametrize("since", ["yesterday", "2 h", "2999-01-01", "-3"])
def test_a_moment_that_is_none_is_refused(phalanx: Phalanx, tmp_path: Path, since: str) -> None:
    outcome = phalanx("policy", "backtest", write(tmp_path, SAME), f"--since={since}")
    assert outcome.code == Exit.USAGE
    assert since in outcome.err


def test_a_history_that_was_compacted_says_so(phalanx: Phalanx, recorded: FakeController, tmp_path: Path) -> None:
    recorded.history = recorded.history[1:]
    outcome = phalanx("policy", "backtest", write(tmp_path, SAME))
    assert outcome.code == Exit.NOT_FOUND
    assert "history does not reach back to the beginning of moe-1" in outcome.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "restartPolicy: {jobRule: []}\n",
            "rules.yaml:1: restartPolicy.jobRule: unknown field. did you mean `jobRules`?",
        ),
        ("jobRules: []\n", "restartPolicy: is missing"),
        ("- 1\n", "must be a mapping"),
    ],
)
def test_what_is_no_policy_is_refused_with_its_line(
    phalanx: Phalanx, recorded: FakeController, tmp_path: Path, text: str, said: str
) -> None:
    outcome = phalanx("policy", "backtest", write(tmp_path, text))
    assert outcome.code == Exit.USAGE
    assert said in outcome.err
    assert not recorded.requests


def test_remarks_of_the_controller_are_shown_with_their_lines(
    phalanx: Phalanx, controller: FakeController, tmp_path: Path
) -> None:
    (tmp_path / "job.yaml").write_text(
        "apiVersion: phalanx/v1\nkind: TrainingJob\nmetadata: {name: moe}\nspec:\n  workload: {module: m}\n  ranks: 1\n"
        "  restartPolicy:\n    jobRules:\n      - match: {exitCode: 1, reason: nodeDead}\n        action: fail\n"
    )
    controller.warnings = [("spec.restartPolicy.jobRules[0].match", "can never match", "drop a condition")]
    outcome = phalanx("submit", "-f", "job.yaml")
    assert outcome.code == 0
    said = "warning: job.yaml:9: spec.restartPolicy.jobRules[0].match: can never match. drop a condition\n"
    assert outcome.err == said


def test_why_tells_rules_budgets_evidence_and_what_would_have_to_change(
    phalanx: Phalanx, controller: FakeController
) -> None:
    controller.decisions = [
        event_pb2.Decision(
            revision=175, verdict="FAIL: bad configuration", rule="jobRules[1]", rules=["jobRules[0]: exit code is 42, not 1"],
            rungs=["every rung: refused, jobRules[1]"], budgets=["user: 0 of 3 used in 3600 s"],
            evidence=["node agent of node-1: host 2 exited with code 42"], evidence_ids=[170, 171],
        )
    ]  # fmt: skip
    controller.changes = ["without jobRules[1] it would be restartJob"]
    lines = phalanx("why", "job", "moe").out.splitlines()
    assert lines[lines.index("revision 175: FAIL: bad configuration") :] == [
        "revision 175: FAIL: bad configuration",
        "  rules:",
        "    jobRules[0]: exit code is 42, not 1",
        "  rungs:",
        "    every rung: refused, jobRules[1]",
        "  budgets:",
        "    user: 0 of 3 used in 3600 s",
        "  evidence (revisions 170, 171):",
        "    node agent of node-1: host 2 exited with code 42",
        "",
        "what would have to change:",
        "  without jobRules[1] it would be restartJob",
    ]
