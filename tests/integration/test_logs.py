"""The logs of a story: every line is JSON, events are constant names, and the keys that lead from one log to another are there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from phalanx.v1 import fleet_pb2, job_pb2, types_pb2

from tests.fixtures.controller_peers import FakeAgent, FakeCell
from tests.fixtures.controller_process import Controller, until

Line = dict[str, Any]
EVENT = re.compile(r"[a-z][a-z0-9_.]*")


def read(path: Path) -> list[Line]:
    """Every line, parsed; one that is no JSON fails."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    """A job runs, loses a rank, recovers, is cancelled; a node is cordoned; a request is refused."""
    controller = Controller(tmp_path_factory.mktemp("controller")).start()
    agents = [FakeAgent(controller, f"node-{number}").connect() for number in (1, 2)]
    FakeCell(controller, agents).connect()
    try:
        controller.submit("log-1", name="moe")
        controller.until_state(types_pb2.JOB_STATE_RUNNING, "moe")
        rank = controller.job("moe").ranks[1]
        agent = next(agent for agent in agents if agent.node == rank.node)
        agent.end_host(rank.host_id, signal=9, sender=types_pb2.ExitInfo.SENDER_UNKNOWN)
        until(lambda: any(r.complete for r in controller.job("moe").recoveries), "the rank is back")
        cordon = fleet_pb2.CordonNodeRequest(request_id="log-2", name="node-1", owner="operator", reason="look")
        controller.fleet.CordonNode(cordon, timeout=30)
        controller.jobs.CancelJob(job_pb2.CancelJobRequest(request_id="log-3", name="moe", reason="done"), timeout=30)
        controller.until_state(types_pb2.JOB_STATE_CANCELLED, "moe")
        with pytest.raises(Exception, match="no job is named"):
            controller.jobs.CancelJob(job_pb2.CancelJobRequest(request_id="log-4", name="nobody"), timeout=30)
    finally:
        controller.close()
    return read(controller.log)


def of(story: list[Line], event: str, **fields: Any) -> list[Line]:
    return [line for line in story if line["event"] == event and fields.items() <= line.items()]


def test_every_line_has_a_time_a_level_and_a_constant_event(story: list[Line]) -> None:
    for line in story:
        assert EVENT.fullmatch(line["event"]), line
        assert line["level"] in {"debug", "info", "warning", "error", "critical"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])


def test_every_line_of_a_leader_has_its_epoch(story: list[Line]) -> None:
    begun = next(i for i, line in enumerate(story) if line["event"] == "controller_started")
    assert {line["epoch"] for line in story[begun:]} == {1}


def test_a_recovery_can_be_followed_from_the_log_alone(story: list[Line]) -> None:
    (lost,) = of(story, "ranks_lost")
    (decided,) = of(story, "recovery_decided")
    (started,) = of(story, "generation_started", generation=2)
    (finished,) = of(story, "recovery_finished")
    for line in (lost, decided, started, finished):
        assert line["job"] == "moe"
        assert line["uid"].startswith("moe-")
    assert (lost["ranks"], lost["level"]) == ([1], "warning")
    assert (decided["rung"], decided["ledger"]) == ("RESTART_RANK", "infrastructure")
    assert "killed by signal 9" in finished["cause"]
    assert (finished["generation"], finished["rung"]) == (2, "RESTART_RANK")
    assert finished["total_s"] == pytest.approx(sum(finished["phases_s"].values()), abs=0.01)
    assert story.index(lost) < story.index(decided) < story.index(started) < story.index(finished)


def test_calls_name_their_caller_and_request(story: list[Line]) -> None:
    done = {line["request_id"]: line for line in of(story, "request_done")}
    assert {key: done[key]["code"] for key in ("log-1", "log-2", "log-3", "log-4")} == {
        "log-1": "OK", "log-2": "OK", "log-3": "OK", "log-4": "NOT_FOUND",
    }  # fmt: skip
    assert {line["caller"] for line in done.values()} == {"local"}
    accepted = {line["request_id"]: line for line in of(story, "command_accepted")}
    assert {key: line["action"] for key, line in accepted.items()} == {
        "log-1": "SubmitJob", "log-2": "CordonNode", "log-3": "CancelJob",
    }  # fmt: skip
    (refused,) = of(story, "request_refused", request_id="log-4")
    assert (refused["reason"], refused["method"]) == ("NO_SUCH_JOB", "JobService/CancelJob")


def test_sessions_and_nodes_are_told_under_the_same_key(story: list[Line]) -> None:
    assert {line["node"] for line in of(story, "session_opened") if "node" in line} == {"node-1", "node-2"}
    assert {line["cell"] for line in of(story, "session_opened") if "cell" in line} == {"cell-1"}
    assert [line["node"] for line in of(story, "node_cordoned")] == ["node-1"]
    assert {line["node"] for line in of(story, "node_registered")} == {"node-1", "node-2"}


def test_nothing_is_logged_per_beat(story: list[Line]) -> None:
    """Two agents beat every 50 ms: with a line for each there would be hundreds."""
    assert len(story) < 80, [line["event"] for line in story]
