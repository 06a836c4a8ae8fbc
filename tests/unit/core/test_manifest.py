"""Manifests: what is accepted, what every mistake gets, and that a spec survives the way to a document and back."""

import json
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.core.manifest import (
    check_spec,
    complete,
    format_duration,
    parse_duration,
    parse_manifest,
    spec_to_document,
)
from controlplane.core.spec import (
    UNLIMITED,
    Backoff,
    Budget,
    CheckpointPolicy,
    JobSpec,
    Parallel,
    RestartPolicy,
    SparePolicy,
    Timeouts,
    Workload,
)

FULL: dict[str, Any] = {
    "apiVersion": "phalanx/v1",
    "kind": "TrainingJob",
    "metadata": {"name": "moe-1", "labels": {"team": "coding"}},
    "spec": {
        "workload": {"module": "training_jobs.moe.train", "path": "/srv/code", "args": {"steps": 200, "lr": 0.1}},
        "ranks": 8,
        "acceleratorsPerRank": 2,
        "parallel": {"tp": 2, "ep": 2},
        "spares": {"warmNodes": 1, "parkedPerNode": 1},
        "checkpoint": {"folder": "/shared", "everySteps": 20, "keep": 4},
        "restartPolicy": {
            "collectWindow": "2s",
            "budgets": {
                "user": {"max": 5, "window": "30m", "resetOnProgress": 10},
                "preemption": {"max": "unlimited"},
            },
            "backoff": {"initial": "500ms", "factor": 3, "max": "1m"},
        },
        "timeouts": {"start": "2m", "join": "30s", "stop": "1.5s"},
        "priority": -3,
    },
}


def test_a_full_document_becomes_a_complete_spec() -> None:
    parsed = parse_manifest(FULL)
    assert parsed.violations == ()
    assert parsed.spec == JobSpec(
        name="moe-1",
        labels=(("team", "coding"),),
        workload=Workload("training_jobs.moe.train", "/srv/code", '{"lr": 0.1, "steps": 200}'),
        ranks=8,
        accelerators_per_rank=2,
        parallel=Parallel(tp=2, dp=4, ep=2),
        spares=SparePolicy(1, 1),
        checkpoint=CheckpointPolicy("/shared", 20, 4),
        restart_policy=RestartPolicy(
            2000,
            user=Budget(5, 1_800_000, 10),
            preemption=Budget(UNLIMITED, 3_600_000),
            backoff=Backoff(500, 3.0, 60_000),
        ),
        timeouts=Timeouts(120_000, 30_000, 1_500),
        priority=-3,
    )


def test_a_minimal_document_gets_the_defaults_and_dp_from_the_ranks() -> None:
    document = {
        "apiVersion": "phalanx/v1",
        "kind": "TrainingJob",
        "metadata": {"name": "a"},
        "spec": {"workload": {"module": "m"}, "ranks": 4},
    }
    assert parse_manifest(document).spec == JobSpec("a", Workload("m"), 4, parallel=Parallel(dp=4))


ABSENT = object()


def changed(path: str, value: object) -> dict[str, Any]:
    document = deepcopy(FULL)
    *parents, last = path.split(".")
    place = document
    for name in parents:
        place = place.setdefault(name, {})
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "reason", "fix"),
    [
        ("apiVersion", "phalanx/v2", 'not the text "phalanx/v2"', "apiVersion: phalanx/v1"),
        ("apiVersion", ABSENT, "missing", "add `apiVersion`"),
        ("kind", "Trainingjob", "must be `TrainingJob`", "kind: TrainingJob"),
        ("metadata", ABSENT, "missing", "add `metadata`"),
        ("metadata.name", ABSENT, "missing", "add `name`"),
        ("metadata.name", "Moe_1", "DNS label", "lower-case"),
        ("metadata.name", "-moe", "DNS label", "lower-case"),
        ("metadata.name", "", "DNS label", "lower-case"),
        ("metadata.name", "a" * 41, "41 characters", "at most 40"),
        ("metadata.name", 7, "must be text, not the number 7", "quotes"),
        ("metadata.labels.team", 7, "must be text", "quotes"),
        ("metadata.labels.team", "x" * 64, "no valid label", "63"),
        ("metadata.labels", ["a"], "a mapping, not a list", "key: value"),
        ("metadata.nam", "x", "unknown field", "`name`"),
        ("spec", ABSENT, "missing", "add `spec`"),
        ("spec", None, "not empty", "key: value"),
        ("spec.workload", ABSENT, "missing", "add `workload`"),
        ("spec.workload.module", "a b", "no module name", "importable"),
        ("spec.workload.path", "relative/x", "relative", "full path"),
        ("spec.workload.args", [1], "a mapping, not a list", "key: value"),
        ("spec.workload.args.x", 2**60, "2^53", "quotes"),
        ("spec.workload.args.x", float("nan"), "no JSON number", "quotes"),
        ("spec.workload.args.x", object(), "no JSON value", "quotes"),
        ("spec.ranks", ABSENT, "missing", "add `ranks`"),
        ("spec.ranks", "8", 'whole number, not the text "8"', "ranks: 1"),
        ("spec.ranks", True, "whole number, not the boolean true", "ranks: 1"),
        ("spec.ranks", 8.0, "whole number, not the number 8.0", "ranks: 1"),
        ("spec.ranks", 0, "too small", "1 or more"),
        ("spec.ranks", 2**31, "too large", "at most"),
        ("spec.ranks", 7, "not divisible by tp*pp*cp = 2", "multiple of 2"),
        ("spec.acceleratorsPerRank", 0, "too small", "1 or more"),
        ("spec.accelerators", 2, "unknown field", "`acceleratorsPerRank`"),
        ("spec.parallel.ep", 3, "does not divide dp = 4", "divisor of 4"),
        ("spec.parallel.tp", 0, "too small", "1 or more"),
        ("spec.parallel.dp", 0, "at least 1", "leave it out"),
        ("spec.parallel.zz", 1, "unknown field", "known here: tp, pp, cp, dp, ep"),
        ("spec.parallel", 4, "a mapping, not the number 4", "key: value"),
        ("spec.spares.warmNodes", -1, "too small", "0 or more"),
        ("spec.spares.parked", 1, "unknown field", "`parkedPerNode`"),
        ("spec.checkpoint.keep", 0, "too small", "1 or more"),
        ("spec.checkpoint.folder", "x", "relative", "full path"),
        ("spec.checkpoint.every_steps", 20, "unknown field", "`everySteps`"),
        ("spec.restartPolicy.collectWindow", 200, "duration with a unit, not the number 200", "200ms"),
        ("spec.restartPolicy.collectWindow", "2 seconds", '"2 seconds" is not a duration', "200ms"),
        ("spec.restartPolicy.collectWindow", "-2s", "not a duration", "200ms"),
        ("spec.restartPolicy.budgets.user.max", -1, "0 or more", "unlimited"),
        ("spec.restartPolicy.budgets.user.max", "many", "whole number", "max: 3"),
        ("spec.restartPolicy.budgets.user.window", "0s", "out of range", "1ms or more"),
        ("spec.restartPolicy.budgets.users", {}, "unknown field", "`user`"),
        ("spec.restartPolicy.backoff.factor", 0.5, "grow", "1 to 1000"),
        ("spec.restartPolicy.backoff.factor", "2", "a number", "factor: 2.0"),
        ("spec.restartPolicy.backoff.max", "100ms", "less than initial", "at least"),
        ("spec.timeouts.stop", "0ms", "out of range", "1ms"),
        ("spec.timeouts.join", "99999999h", "out of range", "at most"),
        ("spec.priority", "high", "whole number", "priority: 1"),
    ],
)
def test_one_mistake_gets_one_message(path: str, value: object, reason: str, fix: str) -> None:
    parsed = parse_manifest(changed(path, value))
    assert parsed.spec is None
    assert [violation.path for violation in parsed.violations] == [path]
    assert reason in parsed.violations[0].reason
    assert fix in parsed.violations[0].fix


def test_all_mistakes_come_at_once() -> None:
    document = changed("spec.parallel.ep", 3)
    document["spec"]["checkpoint"]["keep"] = 0
    document["spec"]["rank"] = 4
    document["metadata"]["name"] = "No"
    paths = {violation.path for violation in parse_manifest(document).violations}
    assert paths == {"spec.parallel.ep", "spec.checkpoint.keep", "spec.rank", "metadata.name"}


@pytest.mark.parametrize("document", [None, [], "text", 7, {}])
def test_what_is_no_manifest_at_all_is_refused(document: object) -> None:
    assert parse_manifest(document).spec is None


def test_a_document_that_contains_itself_is_refused() -> None:
    document = deepcopy(FULL)
    document["spec"]["workload"]["args"]["again"] = document["spec"]["workload"]["args"]
    assert "deeper" in parse_manifest(document).violations[0].reason
    document["apiVersion"] = document
    assert parse_manifest(document).spec is None


def test_a_document_that_explodes_is_refused_quickly() -> None:
    bomb: object = "x"
    for _ in range(30):
        bomb = [bomb, bomb]
    assert "more than" in parse_manifest(changed("spec.workload.args.bomb", bomb)).violations[-1].reason


def test_a_spec_from_elsewhere_is_checked_with_the_same_rules() -> None:
    good = JobSpec("a", Workload("m"), 4)
    assert check_spec(good) == ()
    assert complete(good).parallel.dp == 4
    bad = replace(good, ranks=6, parallel=Parallel(tp=4), workload=Workload("m", args="[1]"))
    assert {violation.path for violation in check_spec(bad)} == {"spec.ranks", "spec.workload.args"}
    assert [v.path for v in check_spec(replace(good, workload=Workload("m", args="{")))] == ["spec.workload.args"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("200ms", 200), ("2s", 2000), ("1.5s", 1500), ("5m", 300_000), ("1h", 3_600_000), ("0s", 0)]
    + [(bad, None) for bad in ("", "5", "5 s", "1d", "-1s", "1e3s", "0.5ms", "\uff15s", "1h30m")],
)
def test_durations(text: str, expected: int | None) -> None:
    assert parse_duration(text) == expected


@given(st.integers(0, 10**12))
def test_durations_round_trip(duration_ms: int) -> None:
    assert parse_duration(format_duration(duration_ms)) == duration_ms


COUNT = st.integers(0, 2**31 - 1)
DURATION = st.integers(1, 315_360_000_000)
BUDGET = st.builds(Budget, st.one_of(st.just(UNLIMITED), COUNT), DURATION, COUNT)
JSON_VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@st.composite
def specs(draw: st.DrawFn) -> JobSpec:
    tp, pp, cp, ep, factor = (draw(st.integers(1, 4)) for _ in range(5))
    initial = draw(DURATION)
    labels = draw(st.dictionaries(st.from_regex(r"[a-z]{1,9}", fullmatch=True), st.text(max_size=63), max_size=3))
    return JobSpec(
        name=draw(st.from_regex(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True)),
        workload=Workload(
            draw(st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,5})?", fullmatch=True)),
            draw(st.sampled_from(["", "/srv/code"])),
            json.dumps(draw(st.dictionaries(st.text(), JSON_VALUE, max_size=3)), sort_keys=True),
        ),
        ranks=tp * pp * cp * ep * factor,
        accelerators_per_rank=draw(st.integers(1, 16)),
        parallel=Parallel(tp=tp, pp=pp, cp=cp, dp=ep * factor, ep=ep),
        spares=SparePolicy(draw(COUNT), draw(COUNT)),
        checkpoint=CheckpointPolicy(draw(st.sampled_from(["", "/shared"])), draw(COUNT), draw(COUNT) or 1),
        restart_policy=RestartPolicy(
            draw(DURATION),
            user=draw(BUDGET),
            infrastructure=draw(BUDGET),
            preemption=draw(BUDGET),
            backoff=Backoff(initial, draw(st.floats(1, 1000)), draw(st.integers(initial, 315_360_000_000))),
        ),
        timeouts=Timeouts(draw(DURATION), draw(DURATION), draw(DURATION)),
        labels=tuple(sorted(labels.items())),
        priority=draw(st.integers(-(2**31) + 1, 2**31 - 1)),
    )


@given(specs())
def test_a_spec_survives_the_way_to_a_document_and_back(spec: JobSpec) -> None:
    assert check_spec(spec) == ()
    assert parse_manifest(spec_to_document(spec)).spec == spec


SCALAR = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
DOCUMENT = st.recursive(
    SCALAR,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["apiVersion", "kind", "metadata", "name", "labels", "spec", "workload", "ranks", "parallel", "max"]
            ),
            inner,
            max_size=5,
        ),
    ),
)


@given(DOCUMENT)
def test_any_document_gets_an_answer(document: object) -> None:
    parsed = parse_manifest(document)
    assert (parsed.spec is None) == bool(parsed.violations)


@pytest.mark.parametrize(
    ("workload", "path", "reason"),
    [
        ({"codeDigest": "sha256:abc"}, "codeDigest", "is no digest"),
        ({"codeDigest": "A" * 64}, "codeDigest", "is no digest"),
        ({"image": "registry/name:latest"}, "image", "does not name one image for ever"),
        ({"image": "registry/name:1@sha256:" + "0" * 63}, "image", "does not name one image for ever"),
        ({"path": "/srv", "codeDigest": "sha256:" + "0" * 64}, "codeDigest", "stands beside spec.workload.path"),
        ({"path": "/srv", "image": "a@sha256:" + "0" * 64}, "image", "stands beside spec.workload.path"),
        ({"folder": "./src"}, "folder", "was not packed"),
        ({"path": "/srv/\0code"}, "path", "holds a character that is no text"),
    ],
)
def test_code_comes_from_one_place_that_cannot_change(workload: dict[str, object], path: str, reason: str) -> None:
    parsed = parse_manifest(manifest({"workload": {"module": "train"} | workload}))
    assert [(v.path, reason in v.reason) for v in parsed.violations] == [(f"spec.workload.{path}", True)]


def test_code_by_digest_and_by_image_survive_the_way_to_a_document_and_back() -> None:
    for origin in (
        {"codeDigest": "sha256:" + "a" * 64},
        {"image": "registry.example:5000/team/train:7@sha256:" + "a" * 64},
    ):
        spec = parse_manifest(manifest({"workload": {"module": "train"} | origin})).spec
        assert spec is not None
        assert parse_manifest(spec_to_document(spec)).spec == spec


def manifest(spec: dict[str, object]) -> dict[str, object]:
    return {"apiVersion": "phalanx/v1", "kind": "TrainingJob", "metadata": {"name": "a"}, "spec": {"ranks": 2} | spec}


def test_muted_faults_are_read_and_written() -> None:
    document = {**FULL, "spec": {**FULL["spec"], "mutedFaults": ["SIM-APP", "XID-13"]}}
    parsed = parse_manifest(document).spec
    assert parsed is not None
    assert parsed.muted_faults == ("SIM-APP", "XID-13")
    assert parse_manifest(spec_to_document(parsed)).spec == parsed
    wrong = {**FULL, "spec": {**FULL["spec"], "mutedFaults": [13]}}
    assert [(v.path, v.reason) for v in parse_manifest(wrong).violations] == [
        ("spec.mutedFaults", "must be text, not the number 13")
    ]
    many = replace(parsed, muted_faults=tuple(f"X-{number}" for number in range(17)))
    assert [violation.reason for violation in check_spec(many)] == ["has 17 codes"]
