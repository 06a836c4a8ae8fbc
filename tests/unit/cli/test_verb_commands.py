"""What the verbs send and show: plan, diff, restart, drain, pins, audit, logs of several ranks, contexts, versions."""

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_controller import FakeController
from phalanx.v1 import audit_pb2, checkpoint_pb2, fleet_pb2, job_pb2
from phalanx.v1 import types_pb2 as t

from cli.errors import Exit
from cli.manifest_file import read_manifest
from cli.wire import spec_to_message
from controlplane.core.audit import GENESIS, AuditEntry, digest

Phalanx = Callable[..., Any]

MANIFEST = """\
apiVersion: phalanx/v1
kind: TrainingJob
metadata: {name: moe, labels: {team: vision}}
spec:
  workload: {module: m, args: {steps: 200}}
  ranks: 4
  spares: {warmNodes: 1}
"""


def write(folder: Path, text: str = MANIFEST) -> str:
    path = folder / "job.yaml"
    path.write_text(text)
    return str(path)


def running(controller: FakeController, tmp_path: Path, **more: Any) -> None:
    spec = spec_to_message(read_manifest(write(tmp_path)).spec)
    controller.jobs["moe"] = job_pb2.Job(name="moe", state=t.JOB_STATE_RUNNING, spec=spec, **more)


# --- plan and diff -----------------------------------------------------------------------------------------------------


def test_the_plan_shows_racks_ranks_spares_and_what_it_waits_for(
    phalanx: Phalanx, controller: FakeController, tmp_path: Path
) -> None:
    for number, rack in ((1, "r1"), (2, "r1"), (3, "r2")):
        controller.nodes[f"node-{number}"] = fleet_pb2.Node(name=f"node-{number}", labels={"rack": rack})
    outcome = phalanx("submit", write(tmp_path), "--dry-run")
    rows = [line.split() for line in outcome.out.splitlines()]
    assert rows[0] == ["moe", "would", "be", "accepted"]
    assert rows[1] == ["RACK", "NODE", "RANKS", "ACCELERATORS"]
    assert rows[2:5] == [["r1", "node-1", "0-1", "2"], ["r1", "node-2", "2-3", "2"], ["r2", "node-3", "spare", "all"]]
    assert outcome.out.splitlines()[-2:] == ["4 ranks on 2 nodes in 1 rack, 1 spare node", "it would start at once"]
    as_json = json.loads(phalanx("submit", write(tmp_path), "--dry-run", "-o", "json").out)
    assert [rank["node"] for rank in as_json["placement"]] == ["node-1", "node-1", "node-2", "node-2"]


def test_diff_names_every_field_that_differs(phalanx: Phalanx, controller: FakeController, tmp_path: Path) -> None:
    running(controller, tmp_path)
    same = phalanx("diff", "-f", write(tmp_path))
    assert (same.code, same.out) == (Exit.OK, "")
    changed = MANIFEST.replace("ranks: 4", "ranks: 8").replace("team: vision", "team: speech").replace("200", "300")
    changed += "  restartPolicy: {backoff: {max: 10m}}\n"
    outcome = phalanx("diff", write(tmp_path, changed))
    assert outcome.code == Exit.ERROR
    assert outcome.out.splitlines() == [
        'metadata.labels.team: "vision" -> "speech"',
        "spec.workload.args.steps: 200 -> 300",
        "spec.ranks: 4 -> 8",
        "spec.parallel.dp: 4 -> 8",
        'spec.restartPolicy.backoff.max: "5m" -> "10m"',
    ]
    assert phalanx("diff", write(tmp_path, MANIFEST.replace("name: moe", "name: other"))).code == Exit.NOT_FOUND


# --- destructive verbs -------------------------------------------------------------------------------------------------


def test_cancel_restart_and_drain_ask_and_off_a_terminal_refuse(
    phalanx: Phalanx, controller: FakeController, tmp_path: Path
) -> None:
    running(controller, tmp_path, step=120, last_checkpoint_step=100)
    controller.nodes["node-1"] = fleet_pb2.Node(name="node-1", jobs=["moe"])
    for arguments, said in (
        (("cancel", "moe"), "every rank of moe gets SIGTERM"),
        (("restart", "moe"), "start again from step 100; about 20 steps are made again"),
        (("drain", "node-1", "--reason", "fan"), "ranks of moe move elsewhere"),
    ):
        outcome = phalanx(*arguments)
        assert outcome.code == Exit.USAGE
        assert said in outcome.err
        assert "add --yes" in outcome.err
    changes = (job_pb2.CancelJobRequest, job_pb2.RestartJobRequest, fleet_pb2.DrainNodeRequest)
    assert not [request for request in controller.requests if isinstance(request, changes)]


def test_cancel_waits_for_the_end(phalanx: Phalanx, controller: FakeController) -> None:
    controller.watched = [[job_pb2.Job(name="moe", state=t.JOB_STATE_CANCELLED, ended_at="now")]]
    outcome = phalanx("cancel", "moe", "--grace", "1500ms", "--wait", "--yes")
    assert outcome.out.splitlines() == ["moe cancel requested at revision 9", "moe CANCELLED"]
    assert controller.requests[0].grace_ms == 1_500
    controller.watched = [[job_pb2.Job(name="moe", state=t.JOB_STATE_SUCCEEDED, ended_at="now")]]
    assert phalanx("cancel", "moe", "--wait", "--yes").code == Exit.CONFLICT
    assert phalanx("cancel", "moe", "--wait", "--timeout", "200ms", "--yes").code == Exit.TIMED_OUT


def test_restart_waits_for_the_next_generation(phalanx: Phalanx, controller: FakeController, tmp_path: Path) -> None:
    running(controller, tmp_path, generation=3)
    states = [(3, t.JOB_STATE_RUNNING), (4, t.JOB_STATE_STARTING), (4, t.JOB_STATE_RUNNING)]
    controller.watched = [[job_pb2.Job(name="moe", generation=number, state=state) for number, state in states]]
    outcome = phalanx("restart", "moe", "--wait", "--yes")
    assert outcome.out.splitlines() == ["moe restart requested at revision 6", "moe RUNNING in generation 4"]


def test_drain_waits_until_the_nodes_are_empty(phalanx: Phalanx, controller: FakeController) -> None:
    for number in (1, 2):
        controller.nodes[f"node-{number}"] = fleet_pb2.Node(name=f"node-{number}", jobs=["moe"])
    command = ("drain", "node-[1-2]", "--reason", "fan", "--wait", "--yes")
    late = phalanx(*command, "--timeout", "0")
    assert late.code == Exit.TIMED_OUT
    assert "node-1: moe" in late.err
    for node in controller.nodes.values():
        node.ClearField("jobs")
    outcome = phalanx(*command)
    assert outcome.out.splitlines()[-2:] == ["node-1 is empty", "node-2 is empty"]
    assert phalanx("drain", "node-9", "--reason", "fan", "--yes").code == Exit.NOT_FOUND


def test_retire_asks_and_says_that_nothing_takes_it_back(phalanx: Phalanx, controller: FakeController) -> None:
    controller.nodes["node-1"] = fleet_pb2.Node(name="node-1")
    asked = phalanx("retire", "node-1", "--reason", "sold")
    assert asked.code == Exit.USAGE
    assert "node-1 leaves the site for good; nothing takes that back" in asked.err
    done = phalanx("retire", "node-1", "--reason", "sold", "--yes")
    assert (done.code, done.out) == (Exit.OK, "node-1 retired at revision 5\n")
    assert controller.requests[-1].reason == "sold"
    assert phalanx("retire", "node-[1-2]", "--reason", "sold", "--yes").code == Exit.NOT_FOUND


# --- checkpoints -------------------------------------------------------------------------------------------------------


def checkpoint(name: str, step: int, state: t.CheckpointState.ValueType, **more: Any) -> checkpoint_pb2.Checkpoint:
    return checkpoint_pb2.Checkpoint(id=name, job="moe", step=step, state=state, **more)


def test_the_newest_usable_checkpoint_is_meant(phalanx: Phalanx, controller: FakeController) -> None:
    controller.checkpoints = [
        checkpoint("c1", 20, t.CHECKPOINT_STATE_VERIFIED),
        checkpoint("c2", 40, t.CHECKPOINT_STATE_COMMITTED, pin_owners=["alice"]),
        checkpoint("c3", 60, t.CHECKPOINT_STATE_POISONED),
    ]
    assert phalanx("checkpoints", "pin", "moe", "--reason", "keep").out == "c2 (step 40) pinned at revision 3\n"
    assert (controller.requests[-1].checkpoint_id, controller.requests[-1].reason) == ("c2", "keep")
    assert phalanx("checkpoints", "pin", "moe", "c9").code == Exit.NOT_FOUND
    assert phalanx("checkpoints", "unpin", "moe", "c2").code == Exit.OK
    assert phalanx("checkpoints", "unpin", "moe").code == Exit.USAGE
    assert phalanx("checkpoints", "unpin", "moe", "c9").code == Exit.NOT_FOUND
    assert "alice" in phalanx("checkpoints", "ls", "--field", "pinned=yes").out


def test_doubt_needs_a_reason_and_is_taken_back(phalanx: Phalanx, controller: FakeController) -> None:
    controller.checkpoints = [checkpoint("moe-1/g2/step-40", 40, t.CHECKPOINT_STATE_VERIFIED)]
    assert phalanx("checkpoints", "poison", "moe").code == Exit.USAGE
    outcome = phalanx("checkpoints", "poison", "moe", "--reason", "odd loss")
    assert outcome.out == "moe-1/g2/step-40 (step 40) and later ones are poisoned at revision 3\n"
    assert (controller.requests[-1].checkpoint_id, controller.requests[-1].reason) == ("moe-1/g2/step-40", "odd loss")
    assert phalanx("checkpoints", "clear", "moe", "--reason", "replay agrees").code == Exit.OK
    assert (controller.requests[-1].job, controller.requests[-1].reason) == ("moe", "replay agrees")


def test_the_id_of_a_checkpoint_names_its_job(phalanx: Phalanx, controller: FakeController) -> None:
    name = "moe-1/g2/step-40"
    controller.checkpoints = [checkpoint(name, 40, t.CHECKPOINT_STATE_VERIFIED)]
    for verb, said in (("pin", "(step 40) pinned"), ("unpin", "unpinned"), ("verify", "")):
        outcome = phalanx("checkpoints", verb, name)
        assert outcome.code == Exit.OK
        assert said in outcome.out
        asked = controller.requests[-1]
        assert (asked.job, asked.checkpoint_id) == ("moe", name)
    assert controller.requests[-2].job == "moe-1", "the list is asked for by the job's uid"


def test_verify_waits_for_the_verdict(phalanx: Phalanx, controller: FakeController) -> None:
    controller.checkpoints = [checkpoint("c1", 20, t.CHECKPOINT_STATE_COMMITTED)]
    assert phalanx("checkpoints", "verify", "moe", "--wait", "--timeout", "0").code == Exit.TIMED_OUT
    controller.checkpoints = [checkpoint("c1", 20, t.CHECKPOINT_STATE_VERIFIED)]
    assert phalanx("checkpoints", "verify", "moe", "--wait").out == "c1 VERIFIED\n"
    controller.checkpoints = [checkpoint("c1", 20, t.CHECKPOINT_STATE_POISONED, reason="a.bin differs")]
    outcome = phalanx("checkpoints", "verify", "moe", "c1", "--wait")
    assert (outcome.code, "a.bin differs" in outcome.err) == (Exit.ERROR, True)


# --- audit -------------------------------------------------------------------------------------------------------------


def chain(count: int) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    for number in range(1, count + 1):
        previous = entries[-1].digest if entries else GENESIS
        bare = AuditEntry(
            number, number * 10**9, "spiffe://site/operator/alice", "OPERATOR", "peer", "CordonNode", f"node/n{number}",
            "{}", '{"cordons":["fan"]}', f"r{number}", previous, "",
        )  # fmt: skip
        entries.append(replace(bare, digest=digest(bare)))
    return entries


def served(controller: FakeController, entries: list[AuditEntry]) -> None:
    controller.audit = [
        audit_pb2.AuditRecord(**{name: getattr(entry, name) for name in AuditEntry.__slots__}) for entry in entries
    ]


def test_the_audit_chain_is_recomputed(phalanx: Phalanx, controller: FakeController) -> None:
    entries = chain(7)
    served(controller, entries)
    assert phalanx("audit", "verify").out.startswith("the audit chain holds: records 1 to 7, head ")
    served(controller, entries[3:])
    assert "older ones than 4 are beyond retention" in phalanx("audit", "verify").out
    served(controller, [])
    assert phalanx("audit", "verify").code == Exit.OK


def test_the_list_shows_the_newest_records(phalanx: Phalanx, controller: FakeController) -> None:
    served(controller, chain(7))
    assert phalanx("audit", "ls", "--limit", "2", "-o", "name").out.split() == ["6", "7"]
    assert phalanx("audit", "ls", "--limit", "2", "--since", "0", "-o", "name").out.split() == ["1", "2"]
    named = phalanx("audit", "ls", "--limit", "3", "--actor", "spiffe://site/operator/alice", "-o", "name")
    assert named.out.split() == ["5", "6", "7"]


@pytest.mark.parametrize("broken", ["changed", "missing", "shortened"])
def test_a_broken_chain_names_the_first_bad_number(phalanx: Phalanx, controller: FakeController, broken: str) -> None:
    entries = chain(7)
    match broken:
        case "changed":
            entries[3] = replace(entries[3], after='{"cordons":[]}')
        case "missing":
            del entries[3]
        case _:
            controller.audit_head = (7, entries[6].digest)
            entries = entries[:3]
    served(controller, entries)
    outcome = phalanx("audit", "verify")
    assert outcome.code == Exit.ERROR
    assert "broken at number 4" in outcome.err
    assert outcome.out == ""


def test_audit_ls(phalanx: Phalanx, controller: FakeController) -> None:
    served(controller, chain(3))
    assert len(phalanx("audit", "ls").out.splitlines()) == 3, "a page of two, and the header"
    assert "spiffe://site/operator/alice" in phalanx("audit", "ls", "-o", "wide").out
    assert json.loads(phalanx("audit", "ls", "--since", "2", "-o", "json").out)[0]["number"] == 3


# --- logs --------------------------------------------------------------------------------------------------------------


def test_logs_of_several_ranks_have_their_number_in_front(phalanx: Phalanx, controller: FakeController) -> None:
    controller.chunks = [b"one\ntw", b"o\nno newline"]
    outcome = phalanx("logs", "moe", "--rank", "2,9-10")
    lines = [f"[{rank:>2}] {text}" for rank in (2, 9, 10) for text in ("one", "two", "no newline")]
    assert outcome.out.splitlines() == lines
    assert [request.rank for request in controller.requests] == [2, 9, 10]
    controller.jobs["moe"] = job_pb2.Job(name="moe", spec=t.TrainingJobSpec(ranks=2))
    outcome = phalanx("logs", "moe", "--rank", "all", "-f", "--since-start")
    assert sorted(outcome.out.splitlines()) == sorted(
        f"[{rank}] {text}" for rank in (0, 1) for text in ("one", "two", "no newline")
    )
    assert controller.requests[-1].tail_bytes > 2**40


def test_a_followed_log_goes_on_where_the_controller_broke_it_off(phalanx: Phalanx, controller: FakeController) -> None:
    controller.chunks = [b"one\n", b"two\n", b"three\n"]
    controller.log_breaks_after = 8
    outcome = phalanx("logs", "moe", "-f")
    assert (outcome.code, outcome.out) == (0, "one\ntwo\nthree\n")
    first, again = controller.requests
    assert (first.after_host_id, again.after_host_id, again.after_offset) == ("", "moe-1-1", 8)
    controller.log_breaks_after = 8
    broken = phalanx("logs", "moe")
    assert (broken.code, broken.out) == (1, "one\ntwo\n"), "a log that is not followed is not begun again"


def test_the_log_of_a_ranks_previous_process(phalanx: Phalanx, controller: FakeController) -> None:
    controller.chunks = [b"last words\n"]
    assert phalanx("logs", "moe", "--rank", "3", "--previous").out == "last words\n"
    assert (controller.requests[-1].rank, controller.requests[-1].previous) == (3, True)
    assert phalanx("logs", "moe", "-p", "-f").code == 2


# --- contexts, versions ------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "phalanx" / "contexts.json"


def test_contexts(phalanx: Phalanx, config: Path, controller: FakeController, monkeypatch: pytest.MonkeyPatch) -> None:
    address = os.environ["PHALANX_ADDRESS"]
    monkeypatch.delenv("PHALANX_ADDRESS")
    assert phalanx("context", "set", "lab", "--address", address, "--identity", "keys").code == Exit.OK
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert json.loads(config.read_text())["current"] == "lab"
    phalanx("context", "set", "far", "--address", "a:1,b:2")
    assert phalanx("context", "ls", "-o", "name").out.split() == ["far", "lab"]
    assert phalanx("get", "jobs").code == Exit.OK, "the current context is used"
    phalanx("context", "use", "far")
    assert phalanx("get", "jobs", "--context", "lab").code == Exit.OK
    monkeypatch.setenv("PHALANX_CONTEXT", "lab")
    assert phalanx("get", "jobs").code == Exit.OK
    phalanx("context", "rm", "far")
    assert json.loads(config.read_text())["current"] == ""
    near = phalanx("context", "use", "lap")
    assert (near.code, "did you mean `lab`?" in near.err) == (Exit.NOT_FOUND, True)
    for arguments in (("set", "x"), ("set", "x y", "--address", "a:1"), ("set", "x", "--address", "a")):
        assert phalanx("context", *arguments).code == Exit.USAGE
    config.write_text("[]")
    assert "cannot read" in phalanx("context", "ls").err


def test_version_shows_a_skew_and_is_no_error(phalanx: Phalanx, controller: FakeController) -> None:
    controller.site = fleet_pb2.GetSiteResponse(version="0.1.0", epoch=4)
    controller.nodes["a"] = fleet_pb2.Node(name="a", agent_version="0.1.0")
    controller.nodes["b"] = fleet_pb2.Node(name="b", agent_version="0.9.0")
    outcome = phalanx("version")
    assert outcome.code == Exit.OK
    assert "agents 0.1.0: 1\n" in outcome.out
    assert "agents 0.9.0: 1  (not supported" in outcome.out
    document = json.loads(phalanx("version", "-o", "json").out)
    assert (document["controller"], document["agents"]) == ("0.1.0", {"0.1.0": 1, "0.9.0": 1})


def test_columns_and_messages_list_the_same(phalanx: Phalanx, controller: FakeController) -> None:
    for number in range(5):
        controller.nodes[f"n{number}"] = fleet_pb2.Node(
            name=f"n{number}", labels={"rack": f"r{number // 2}", "pool": "a"}, service=3, liveness=1, jobs=["x", "y"],
            cordons=[fleet_pb2.CordonReason(owner="o", reason="r")], last_beat_age_s=float("inf"),
        )  # fmt: skip
    plain = phalanx("nodes", "-o", "wide").out
    controller.knows_columns = True
    assert phalanx("nodes", "-o", "wide").out == plain
    assert controller.requests[-1].columns
    assert phalanx("nodes", "-l", "rack=r1", "-o", "name").out.split() == ["n2", "n3"]


def test_a_refused_node_does_not_stop_the_others(phalanx: Phalanx, controller: FakeController) -> None:
    controller.refused_nodes = {"node-2"}
    outcome = phalanx("uncordon", "node-[1-3]")
    assert outcome.code == Exit.CONFLICT
    assert outcome.out.splitlines() == ["node-1 uncordoned at revision 8", "node-3 uncordoned at revision 8"]
    assert "1 of 3 nodes were refused" in outcome.err
    assert "node-2: node-2 has no cordon of yours" in outcome.err


def test_nodes_are_in_the_order_that_people_count(phalanx: Phalanx, controller: FakeController) -> None:
    for name in ("node-10", "node-9", "a", "node-1"):
        controller.nodes[name] = fleet_pb2.Node(name=name)
    assert phalanx("nodes", "-o", "name").out.split() == ["a", "node-1", "node-9", "node-10"]


def test_version_without_a_controller_is_no_error(phalanx: Phalanx, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PHALANX_ADDRESS", "PHALANX_PLAINTEXT"):
        monkeypatch.delenv(name, raising=False)
    shown = phalanx("version")
    assert shown.code == Exit.OK
    assert "error" not in shown.err
    assert "nothing to compare with" in shown.err


def test_down_of_a_folder_that_is_not_there_is_no_success(phalanx: Phalanx) -> None:
    shown = phalanx("down", "--dir", "misspelt")
    assert shown.code == Exit.NOT_FOUND
    assert "no site in misspelt" in shown.err
