"""Restart rules in a manifest: what is refused, with the path and the way out."""

from __future__ import annotations

import pytest
import yaml

from controlplane.core.manifest_restart import parse_policy, policy_document
from controlplane.core.spec import JobRule, Match, RuleAction

HEAD = "restartPolicy: {jobRules: ["


@pytest.mark.parametrize(
    ("rule", "path", "words"),
    [
        ("{match: {exitCod: 1}, action: fail}", "match.exitCod", "did you mean `exitCode`?"),
        ("{match: {exitCode: one}, action: fail}", "match.exitCode", "whole numbers"),
        ("{match: {exitCode: 256}, action: fail}", "match.exitCode", "0 to 255"),
        ("{match: {signal: SIGKIL}, action: fail}", "match.signal", "did you mean `SIGKILL`?"),
        ("{match: {sender: oomkiller}, action: fail}", "match.sender", "oom"),
        ("{match: {fault: {level: ISOLATED}}, action: fail}", "match.fault.level", "did you mean `ISOLATE`?"),
        ("{match: {reason: nodeDeath}, action: fail}", "match.reason", "did you mean `nodeDead`?"),
        ("{match: {message: '('}, action: fail}", "match.message", "missing ): ("),
        ("{match: {message: '(?=x)'}, action: fail}", "match.message", "no RE2 pattern"),
        ("{match: {ranks: 3-1}, action: fail}", "match.ranks", "ascending ranges"),
        ("{match: {ranks: {dp: 1}}, action: fail}", "match.ranks", "does not name ranks"),
        ("{match: {coordinates: {xp: 1}}, action: fail}", "match.coordinates.xp", "known here: tp, pp, cp, dp, ep"),
        ("{match: {failuresOfRank: 2}, action: fail}", "match.within", "in which time"),
        ("{match: {within: 1h}, action: fail}", "match.within", "add failuresOfRank"),
        ("{match: {}, action: fial}", "action", "did you mean `fail`?"),
        ("{match: {}}", "action", "add `action`"),
        ("{action: fail}", "match", "add `match`"),
        ("{match: {}, action: fail, checkpoints: 2}", "checkpoints", "action: rollback"),
        ("{match: {}, action: rollback, checkpoints: 0}", "checkpoints", "1 to 100"),
        ("{match: {}, action: fail, ledger: users}", "ledger", "did you mean `user`?"),
        ("{match: {}, action: auto}", "action", "is not known"),
        ("fail", "", "must be a mapping"),
    ],
)
def test_what_is_refused(rule: str, path: str, words: str) -> None:
    policy, violations = parse_policy(yaml.safe_load(f"{HEAD}{rule}]}}"))
    assert policy is None
    (found,) = violations
    assert found.path == f"restartPolicy.jobRules[0].{path}".rstrip(".")
    assert words in f"{found.reason}. {found.fix}"


def test_a_policy_is_read_alone_or_from_a_whole_manifest() -> None:
    text = f"{HEAD}{{match: {{message: nan}}, action: rollback}}]}}"
    policy, _ = parse_policy(yaml.safe_load(text))
    assert policy is not None
    assert policy.job_rules == (JobRule(Match(message="nan"), RuleAction.ROLLBACK, checkpoints=1),)
    assert parse_policy({"spec": {"restartPolicy": policy_document(policy)}})[0] == policy
    assert parse_policy({"spec": {}})[1][0].path == "spec.restartPolicy"
    assert parse_policy([])[0] is None


def test_many_rules_are_refused() -> None:
    rules = [{"match": {}, "action": "fail"}] * 65
    policy, violations = parse_policy({"restartPolicy": {"jobRules": rules}})
    assert policy is None
    assert violations[0].fix == "use at most 64"
