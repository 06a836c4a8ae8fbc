"""Commands against a real gRPC server: what is sent, what is shown, and the exit code."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from fake_controller import FakeController, Refusal, Served
from google.protobuf.struct_pb2 import Struct
from phalanx.v1 import agent_pb2, checkpoint_pb2, event_pb2, fleet_pb2, job_pb2
from phalanx.v1 import types_pb2 as t

from cli.errors import Exit

Phalanx = Callable[..., Any]


def job(name: str = "moe", state: t.JobState.ValueType = t.JOB_STATE_RUNNING, **more: Any) -> job_pb2.Job:
    args = Struct()
    args.update({"steps": 200})
    spec = t.TrainingJobSpec(name=name, ranks=4, workload=t.WorkloadSpec(module="m", args=args))
    return job_pb2.Job(name=name, uid=f"{name}-u", state=state, spec=spec, **more)


def node(name: str, **more: Any) -> fleet_pb2.Node:
    devices = [
        agent_pb2.AcceleratorStatus(index=0, serial="s0", state=t.ACCELERATOR_STATE_HEALTHY),
        agent_pb2.AcceleratorStatus(index=1, serial="s1", state=t.ACCELERATOR_STATE_FAILED, fault_code="E42"),
    ]
    return fleet_pb2.Node(
        name=name,
        liveness=t.NODE_LIVENESS_ALIVE,
        service=t.NODE_SERVICE_IN_SERVICE,
        labels={"rack": "r1"},
        accelerators=devices,
        **more,
    )


def test_help_is_quick_and_needs_nothing_heavy() -> None:
    script = (
        "import sys; from cli.__main__ import run; code = run(['--help'])\n"
        "print(code, [m for m in ('grpc', 'yaml', 'rich', 'numpy', 'google') if m in sys.modules])"
    )
    done = subprocess.run((sys.executable, "-c", script), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize(
    "arguments", [("frobnicate",), ("get",), ("watch",), ("up", "--nodes", "0"), ("logs", "j", "--rank", "x")]
)
def test_usage_errors_are_2(phalanx: Phalanx, arguments: tuple[str, ...]) -> None:
    outcome = phalanx(*arguments)
    assert outcome.code == Exit.USAGE
    assert outcome.out == ""
    assert "rror" in outcome.err


def test_without_a_site_the_error_says_what_to_do(phalanx: Phalanx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHALANX_ADDRESS", raising=False)
    outcome = phalanx("get", "jobs")
    assert outcome.code == Exit.ERROR
    assert "no controller to talk to" in outcome.err
    assert "phalanx up" in outcome.err


def test_an_unreachable_controller_is_named(phalanx: Phalanx, served: Served) -> None:
    served.stop()
    outcome = phalanx("get", "nodes", "--address", served.address)
    assert outcome.code == Exit.ERROR
    assert f"the controller at {served.address} does not answer" in outcome.err


def test_a_damaged_site_file_is_told(phalanx: Phalanx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PHALANX_ADDRESS", raising=False)
    (tmp_path / "site.json").write_text("{")
    outcome = phalanx("get", "jobs", "--dir", str(tmp_path))
    assert (outcome.code, "cannot read" in outcome.err) == (Exit.ERROR, True)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, Exit.USAGE),
        (grpc.StatusCode.NOT_FOUND, Exit.NOT_FOUND),
        (grpc.StatusCode.PERMISSION_DENIED, Exit.NOT_ALLOWED),
        (grpc.StatusCode.UNAUTHENTICATED, Exit.NOT_ALLOWED),
        (grpc.StatusCode.ALREADY_EXISTS, Exit.CONFLICT),
        (grpc.StatusCode.FAILED_PRECONDITION, Exit.CONFLICT),
        (grpc.StatusCode.DEADLINE_EXCEEDED, Exit.TIMED_OUT),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Exit.ERROR),
        (grpc.StatusCode.INTERNAL, Exit.ERROR),
        (grpc.StatusCode.UNAVAILABLE, Exit.ERROR),
    ],
)
def test_every_refusal_has_its_exit_code(
    phalanx: Phalanx, controller: FakeController, code: grpc.StatusCode, expected: Exit
) -> None:
    controller.refusals["CancelJobRequest"] = Refusal(code, "moe ended an hour ago", reason="JOB_ENDED")
    outcome = phalanx("cancel", "moe", "--yes")
    assert outcome.code == expected
    assert outcome.out == ""
    assert outcome.err.splitlines()[1:3] == ["error: moe ended an hour ago", "  why: JOB_ENDED"]


def test_get_jobs_in_every_form(phalanx: Phalanx, controller: FakeController) -> None:
    controller.jobs["moe"] = job(
        step=120, loss=2.5, generation=3, ettr=0.987, ettr_last_hour=0.5, restarts={"user": 1}, blocker="none"
    )
    table = phalanx("get", "jobs")
    assert table.code == 0
    assert table.out.splitlines()[1].split() == [
        "moe",
        "RUNNING",
        "120/200",
        "2.5000",
        "3",
        "4",
        "0.987",
        "0.500",
        "1",
        "none",
    ]
    assert phalanx("get", "jobs", "-o", "name").out == "moe\n"
    as_json = json.loads(phalanx("get", "job", "moe", "-o", "json").out)[0]
    as_yaml = yaml.safe_load(phalanx("get", "job", "moe", "-o", "yaml").out)[0]
    assert as_json == as_yaml
    assert (as_json["state"], as_json["step"], as_json["loss"]) == ("RUNNING", 120, 2.5)
    assert as_json["spec"]["workload"]["args"] == {"steps": 200}
    assert as_json["restarts"] == {"user": 1}


def test_numbers_that_json_lacks_become_null(phalanx: Phalanx, controller: FakeController) -> None:
    controller.jobs["moe"] = job(loss=float("nan"))
    assert json.loads(phalanx("get", "jobs", "-o", "json").out)[0]["loss"] is None
    assert " - " in phalanx("get", "jobs").out


def test_get_nodes_and_checkpoints(phalanx: Phalanx, controller: FakeController) -> None:
    cordon = fleet_pb2.CordonReason(owner="operator", reason="fan")
    controller.nodes["node-1"] = node("node-1", cell_member=True, last_beat_age_s=0.25, jobs=["moe"], cordons=[cordon])
    row = phalanx("get", "nodes").out.splitlines()[1]
    assert row.split() == ["node-1", "IN_SERVICE", "ALIVE", "yes", "1/2", "r1", "0.25", "s", "moe", "operator:", "fan"]
    controller.checkpoints = [
        checkpoint_pb2.Checkpoint(
            id="c1", job="moe", step=20, state=t.CHECKPOINT_STATE_VERIFIED, bytes=3 << 20, pinned=True
        ),
        checkpoint_pb2.Checkpoint(id="c2", job="other", step=40, state=t.CHECKPOINT_STATE_COMMITTED),
    ]
    assert "3.0 MiB" in phalanx("get", "checkpoints", "--job", "moe").out
    assert phalanx("get", "checkpoints", "-o", "name").out == "c1\nc2\n"
    assert phalanx("get", "checkpoints", "c9").code == Exit.NOT_FOUND


def test_a_long_list_is_printed_without_rich(phalanx: Phalanx, controller: FakeController) -> None:
    for number in range(2000):
        controller.nodes[f"n{number}"] = node(f"n{number}")
    outcome = phalanx("get", "nodes")
    assert len(outcome.out.splitlines()) == 2001


def test_an_unknown_kind_gets_a_hint(phalanx: Phalanx, controller: FakeController) -> None:
    outcome = phalanx("get", "noodes")
    assert (outcome.code, "did you mean `nodes`?" in outcome.err) == (Exit.USAGE, True)


def test_a_degraded_controller_is_7(phalanx: Phalanx, controller: FakeController) -> None:
    controller.site = fleet_pb2.GetSiteResponse(version="0.1.0", journal_state="ok", ledger_s={"IDLE": 3.0})
    assert phalanx("get", "site").code == Exit.OK
    controller.site = fleet_pb2.GetSiteResponse(journal_state="disk full", detector_degraded=True, loop_lag_s=3.25)
    outcome = phalanx("get", "site")
    assert outcome.code == Exit.DEGRADED
    assert "disk full" in outcome.err
    assert "3.25 s behind" in outcome.err


def test_describe_shows_ranks_and_the_recovery_timeline(phalanx: Phalanx, controller: FakeController) -> None:
    recovery = job_pb2.Recovery(
        generation=2,
        cause="rank 1: SIGKILL",
        rung="RESTART_RANK",
        ranks=[1],
        steps_lost=7,
        phases_s={"detect": 0.01, "first_step": 0.4},
        complete=True,
        total_s=1.5,
    )
    rank = job_pb2.Rank(rank=1, state=t.RANK_STATE_RUNNING, node="node-1", pid=4242, host_id="moe-7", accelerators=[1])
    parked = job_pb2.ParkedHost(host_id="moe-9", node="node-3", state=t.RANK_STATE_PARKED)
    controller.jobs["moe"] = job(ranks=[rank], parked=[parked], recoveries=[recovery], ledger_s={"PRODUCTIVE": 40.0})
    out = phalanx("describe", "job", "moe").out
    for text in ("4242", "PARKED", "RESTART_RANK", "rank 1: SIGKILL", "FIRST STEP", "0.40 s", "PRODUCTIVE 40.0 s"):
        assert text in out
    controller.nodes["node-1"] = node("node-1")
    out = phalanx("describe", "node", "node-1").out
    assert "E42" in out
    assert phalanx("describe", "node", "nobody").code == Exit.NOT_FOUND
    assert phalanx("describe", "site", "x").code == Exit.USAGE


REASON = """budget spent; last error: Traceback (most recent call last):
  File "train.py", line 3, in main
ValueError: boom
"""


def test_watch_ends_with_the_job(phalanx: Phalanx, controller: FakeController) -> None:
    controller.watched = [
        [job(step=1), job(step=100), job(state=t.JOB_STATE_SUCCEEDED, step=200, result={"loss": "1.5"})]
    ]
    outcome = phalanx("watch", "moe")
    assert outcome.code == Exit.OK
    assert outcome.out == "moe SUCCEEDED at step 200  loss=1.5\n"
    assert len(outcome.err.splitlines()) == 3
    controller.watched = [[job(state=t.JOB_STATE_FAILED, step=3, end_reason=REASON)]]
    outcome = phalanx("watch", "moe")
    assert outcome.code == Exit.ERROR
    assert "  why: budget spent; last error: ValueError: boom\n" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_watch_that_breaks_is_taken_up_again(phalanx: Phalanx, controller: FakeController) -> None:
    controller.watched = [[job(step=1)], [job(step=2)], [job(state=t.JOB_STATE_SUCCEEDED, step=3)]]
    assert phalanx("watch", "moe").code == Exit.OK
    assert sum(isinstance(request, job_pb2.WatchJobRequest) for request in controller.requests) == 3


def test_a_watch_has_a_time_out(phalanx: Phalanx, controller: FakeController) -> None:
    outcome = phalanx("watch", "moe", "--timeout", "0.3")
    assert outcome.code == Exit.TIMED_OUT


def test_events_why_and_logs(phalanx: Phalanx, controller: FakeController) -> None:
    controller.events = [
        event_pb2.Event(
            revision=n, at="2026-01-02T03:04:05.678+00:00", type="RankExited", job="moe", node="node-1", message=f"m{n}"
        )
        for n in (3, 4)
    ]
    out = phalanx("events", "--since", "3", "--job", "moe").out
    assert [("r4" in out), ("m3" in out), ("05.678" in out)] == [True, False, True]
    assert phalanx("why", "rank", "moe/1").out.startswith("because of moe/1\n")
    assert controller.requests[-1].kind == event_pb2.SUBJECT_KIND_RANK
    assert phalanx("why", "rank", "moe").code == Exit.USAGE
    assert phalanx("why", "weather", "moe").code == Exit.USAGE
    controller.chunks = [b"step 1\n", b"\xff\x00 raw\n"]
    phalanx("logs", "moe", "--rank", "2", "--tail", "100")
    assert (controller.requests[-1].rank, controller.requests[-1].tail_bytes) == (2, 100)


def test_every_change_has_its_own_request_id(phalanx: Phalanx, controller: FakeController) -> None:
    assert phalanx("cordon", "node-1", "--reason", "fan").out == "node-1 cordoned at revision 7\n"
    assert phalanx("uncordon", "node-1").code == 0
    assert phalanx("cancel", "moe", "--yes").code == 0
    assert phalanx("inject", "accelerator-fault", "node-1", "1", "--code", "E42").code == 0
    assert phalanx("inject", "accelerator-fault", "node-1", "1", "--clear").code == 0
    ids = [request.request_id for request in controller.requests]
    assert len(set(ids)) == 5
    assert (controller.requests[0].owner, controller.requests[0].reason) == ("", "fan")
    assert [request.code for request in controller.requests[3:]] == ["E42", ""]
    assert phalanx("inject", "accelerator-fault", "node-1", "1").code == Exit.USAGE
    assert phalanx("cordon", "node-1").code == Exit.USAGE


def test_a_checkpoint_is_corrupted_by_one_byte(phalanx: Phalanx, controller: FakeController, tmp_path: Path) -> None:
    folder = tmp_path / "step-40"
    (folder / "part").mkdir(parents=True)
    (folder / "small").write_bytes(b"x")
    (folder / "part" / "large").write_bytes(bytes(100))
    controller.checkpoints = [
        checkpoint_pb2.Checkpoint(id="c1", job="moe", step=40, state=t.CHECKPOINT_STATE_COMMITTED, folder=str(folder)),
        checkpoint_pb2.Checkpoint(id="c2", job="moe", step=60, state=t.CHECKPOINT_STATE_POISONED, folder="/nowhere"),
    ]
    assert phalanx("inject", "corrupt-checkpoint", "moe").code == 0
    changed = (folder / "part" / "large").read_bytes()
    assert [index for index, byte in enumerate(changed) if byte] == [50]
    assert phalanx("inject", "corrupt-checkpoint", "other").code == Exit.NOT_FOUND


def test_a_process_that_is_not_of_the_site_is_never_killed(
    phalanx: Phalanx, controller: FakeController, tmp_path: Path
) -> None:
    site = {"address": "127.0.0.1:1", "run": str(tmp_path / "run"), "supervisor_pid": 1, "nodes": []}
    (tmp_path / "site.json").write_text(json.dumps(site))
    with subprocess.Popen(("sleep", "60")) as stranger:
        controller.jobs["moe"] = job(ranks=[job_pb2.Rank(rank=0, pid=stranger.pid)])
        outcome = phalanx("inject", "kill-rank", "moe", "0", "--dir", str(tmp_path))
        assert stranger.poll() is None
        stranger.kill()
    assert outcome.code == Exit.ERROR
    assert "is not of this site" in outcome.err
    assert phalanx("inject", "kill-rank", "moe", "9", "--dir", str(tmp_path)).code == Exit.NOT_FOUND
    assert phalanx("inject", "kill-gcs", "--dir", str(tmp_path)).code == Exit.ERROR


def test_version(phalanx: Phalanx, controller: FakeController) -> None:
    out = phalanx("version").out
    assert out.startswith("phalanx ")
    assert "controller 0.1.0" in out
