"""Manifest files: lines, duplicates, broken YAML, and that a bad file sends nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_controller import FakeController, Refusal
from phalanx.v1 import job_pb2
from phalanx.v1 import types_pb2 as t

from cli.errors import Exit, ManifestRefused
from cli.manifest_file import read_manifest

Phalanx = Callable[..., Any]

GOOD = """\
apiVersion: phalanx/v1
kind: TrainingJob
metadata:
  name: moe
spec:
  workload:
    module: training_jobs.moe.train
    path: code
    args: {steps: 200, seed: 7, nested: {list: [1, 2.5]}}
  ranks: 4
  parallel: {ep: 2}
  checkpoint:
    folder: /shared
    everySteps: 20
"""


def write(folder: Path, text: str) -> str:
    path = folder / "job.yaml"
    path.write_text(text)
    return str(path)


def test_a_good_manifest_is_sent_whole(phalanx: Phalanx, controller: FakeController, tmp_path: Path) -> None:
    outcome = phalanx("submit", "-f", write(tmp_path, GOOD))
    assert outcome.code == 0
    assert outcome.out.splitlines()[:2] == ["moe submitted (u-1)", "4 ranks start on 2 nodes"]
    (request,) = controller.requests
    assert isinstance(request, job_pb2.SubmitJobRequest)
    assert (request.dry_run, request.spec.parallel.dp, request.spec.checkpoint.folder) == (False, 4, "/shared")
    assert request.spec.workload.path == str(tmp_path / "code")
    assert request.spec.workload.args["nested"]["list"][1] == 2.5
    assert request.spec.restart_policy.preemption.unlimited
    assert request.spec.timeouts.start_ms == 120_000


def test_exactly_one_manifest_is_submitted(phalanx: Phalanx, controller: FakeController, tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert phalanx("submit", path).code == Exit.OK
    assert phalanx("submit").code == Exit.USAGE
    assert phalanx("submit", path, "-f", path).code == Exit.USAGE
    assert len(controller.requests) == 1


def test_dry_run_and_wait(phalanx: Phalanx, controller: FakeController, tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    assert "would be accepted" in phalanx("submit", "-f", path, "--dry-run").out
    assert controller.requests[0].dry_run
    controller.watched = [[job_pb2.Job(name="moe", state=t.JOB_STATE_SUCCEEDED, step=200)]]
    assert "moe SUCCEEDED at step 200" in phalanx("submit", "-f", path, "--wait").out
    assert phalanx("submit", "-f", path, "--wait", "--timeout", "0.2").code == Exit.TIMED_OUT


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("{ep: 2}", "{ep: 3}", "11: spec.parallel.ep: 3 does not divide dp = 4. use a divisor of 4"),
        ("everySteps", "evrySteps", "14: spec.checkpoint.evrySteps: unknown field. did you mean `everySteps`?"),
        ("  ranks: 4\n", "", "5: spec.ranks: is missing. add `ranks`"),
        ("ranks: 4", "ranks: four", '10: spec.ranks: must be a whole number, not the text "four"'),
        ("name: moe", "name: moe\n  name: mo", "4: metadata.name: stands here and again in line 5. keep one"),
        ("{ep: 2}", "{ep: 2", "12: expected ',' or '}'"),
        ("[1, 2.5]", "[1, 2020-01-01]", "9: spec.workload.args.nested.list[1]: a date is no JSON value"),
        ("[1, 2.5]", "!!python/object:os.system x", "9: could not determine a constructor"),
        ("kind: TrainingJob\n", "kind: TrainingJob\n---\na: 1\n", "3: but found another document"),
    ],
)
def test_a_mistake_is_shown_with_its_line(
    phalanx: Phalanx, controller: FakeController, tmp_path: Path, *, old: str, new: str, expected: str
) -> None:
    path = write(tmp_path, GOOD.replace(old, new))
    outcome = phalanx("submit", "-f", path)
    assert outcome.code == Exit.USAGE
    assert f"{path}:{expected}" in outcome.err
    assert outcome.out == ""
    assert controller.requests == []


def test_all_mistakes_are_shown_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = GOOD.replace("name: moe", "name: Moe").replace("{ep: 2}", "{ep: 0}").replace("everySteps", "every")
    with pytest.raises(ManifestRefused) as refused:
        read_manifest(write(tmp_path, text))
    assert [int(line.split(":")[1]) for line in refused.value.problems] == [4, 11, 14]


@pytest.mark.parametrize("text", ["", "\x00", "a: &a [*a]", "- " * 5000, "x", "?", "{? [a]: b}", "a: 2020-99-99"])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ManifestRefused):
        read_manifest(write(tmp_path, text))


def test_a_file_that_cannot_be_read(phalanx: Phalanx, tmp_path: Path) -> None:
    assert phalanx("submit", "-f", str(tmp_path / "none.yaml")).code == Exit.USAGE
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xfa")
    assert phalanx("submit", "-f", str(tmp_path / "binary")).code == Exit.USAGE


def test_what_the_server_finds_is_shown_with_lines_too(
    phalanx: Phalanx, controller: FakeController, tmp_path: Path
) -> None:
    violations = (
        ("spec.ranks", "4 ranks need 8 accelerators, the site has 2", "use at most 1"),
        ("spec.checkpoint.folder", "not writable: read-only file system", "choose another folder"),
        ("spec.timeouts.join", "too short", "use 1s"),
    )
    controller.refusals["SubmitJobRequest"] = Refusal(
        grpc.StatusCode.INVALID_ARGUMENT, "refused", "INVALID_SPEC", violations
    )
    path = write(tmp_path, GOOD)
    outcome = phalanx("submit", "-f", path)
    assert outcome.code == Exit.USAGE
    assert [line.split(": ")[0] for line in outcome.err.splitlines()[:3]] == [f"{path}:5", f"{path}:10", f"{path}:13"]


def test_a_duplicate_name_is_a_conflict(phalanx: Phalanx, controller: FakeController, tmp_path: Path) -> None:
    controller.refusals["SubmitJobRequest"] = Refusal(grpc.StatusCode.ALREADY_EXISTS, "there is a job `moe`")
    assert phalanx("submit", "-f", write(tmp_path, GOOD)).code == Exit.CONFLICT
