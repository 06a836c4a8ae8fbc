"""Warnings at submit: rules that can never match, and rules that are never reached."""

from __future__ import annotations

import pytest
import yaml

from controlplane.core.manifest import parse_manifest
from controlplane.core.recovery.review import review
from controlplane.core.spec import JobSpec


def job(rules: str) -> JobSpec:
    document = {
        "apiVersion": "phalanx/v1",
        "kind": "TrainingJob",
        "metadata": {"name": "moe"},
        "spec": {
            "workload": {"module": "m"}, "ranks": 8, "parallel": {"tp": 2},
            "restartPolicy": {"jobRules": yaml.safe_load(rules)},
        },
    }  # fmt: skip
    parsed = parse_manifest(document)
    assert parsed.spec is not None, parsed.violations
    return parsed.spec


@pytest.mark.parametrize(
    "rules",
    [
        "[{match: {exitCode: 42, signal: SIGKILL}, action: fail}]",
        "[{match: {exitCode: 42, reason: nodeDead}, action: fail}]",
        "[{match: {sender: oom, exitCode: 1}, action: fail}]",
        "[{match: {fault: {level: ISOLATE}, reason: exited}, action: fail}]",
        "[{match: {message: nan, reason: nodeDead}, action: fail}]",
        "[{match: {exitCode: 42, blame: infrastructure}, action: fail}]",
        "[{match: {ranks: 8-9}, action: fail}]",
        "[{match: {coordinates: {dp: 4}}, action: fail}]",
    ],
)
def test_rules_that_can_never_match(rules: str) -> None:
    (warning,) = review(job(rules))
    assert warning.reason.startswith("can never match")
    assert warning.path.startswith("spec.restartPolicy.jobRules[0].match")


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        ("[{match: {}, action: fail}, {match: {exitCode: 1}, action: suspend}]", "jobRules[0]"),
        ("[{match: {signal: SIGKILL}, action: fail}, {match: {exitCode: 137}, action: suspend}]", "jobRules[0]"),
        (
            (
                "[{match: {exitCode: 1}, action: fail}, {match: {exitCode: 2}, action: fail}, "
                "{match: {exitCode: [1, 2]}, action: suspend}]"
            ),
            "jobRules[0] and jobRules[1]",
        ),
        (
            (
                "[{match: {failuresOfRank: 2, within: 2h}, action: fail}, "
                "{match: {failuresOfRank: 3, within: 1h}, action: suspend}]"
            ),
            "jobRules[0]",
        ),
        (
            "[{match: {blame: user}, action: fail}, {match: {message: nan, exitCode: 1}, action: suspend}]",
            "jobRules[0]",
        ),
    ],
)
def test_rules_that_are_never_reached(rules: str, names: str) -> None:
    (warning,) = review(job(rules))
    assert warning.reason == f"is never reached: {names} always matches first"


@pytest.mark.parametrize(
    "rules",
    [
        "[{match: {exitCode: 1}, action: fail}, {match: {exitCode: [1, 2]}, action: suspend}]",
        "[{match: {message: a}, action: fail}, {match: {message: b}, action: suspend}]",
        "[{match: {message: a}, action: fail}, {match: {}, action: suspend}]",
        (
            "[{match: {failuresOfRank: 3, within: 2h}, action: fail}, "
            "{match: {failuresOfRank: 2, within: 2h}, action: suspend}]"
        ),
        "[{match: {fault: {code: XID-79}}, action: fail}, {match: {fault: {code: XID-48}}, action: suspend}]",
        "[{match: {signal: SIGKILL, sender: oom}, action: fail}, {match: {signal: SIGKILL}, action: suspend}]",
        "[{match: {ranks: first}, action: fail}, {match: {ranks: last}, action: suspend}]",
        "[{match: {exitCode: unknown, signal: unknown}, action: fail}]",
    ],
)
def test_rules_without_a_remark(rules: str) -> None:
    assert review(job(rules)) == ()
