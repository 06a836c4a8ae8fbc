"""storage, compact, backup and restore through the command line, on a controller that runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from phalanx.v1 import event_pb2, types_pb2

from controlplane.restore import SKIPPED
from tests.fixtures.controller_peers import FakeAgent, FakeCell
from tests.fixtures.controller_process import Controller, until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    made = Controller(tmp_path).start()
    yield made
    made.close()


def phalanx(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/proto/gen/python"}
    command = [sys.executable, "-m", "cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_a_site_is_compacted_backed_up_and_comes_back(controller: Controller, tmp_path: Path) -> None:
    agents = [FakeAgent(controller, f"node-{number}").connect() for number in (1, 2)]
    cell = FakeCell(controller, agents).connect()
    controller.submit("storage-1")
    job = controller.until_state(types_pb2.JOB_STATE_RUNNING)
    why = event_pb2.ExplainRequest(kind=event_pb2.SUBJECT_KIND_JOB, name="demo")
    told = list(controller.events.Explain(why, timeout=30).chain)
    at = ("--address", controller.address, "--plaintext")

    phalanx("compact", *at, code=2)  # nobody to ask
    phalanx("compact", *at, "--before", "1000000", "--yes")
    shown = json.loads(phalanx("storage", *at, "-o", "json").stdout)
    assert shown["kind"] == "sqlite"
    assert int(shown["oldest_revision"]) > 10
    assert int(shown["archived_records"]) > 5
    assert shown["state"] == "ok"
    assert shown["controllers"] == [controller.address]
    assert list(controller.events.Explain(why, timeout=30).chain) == told, "why answers as before"
    assert any(event.type == "Audited" for event in controller.events.ListEvents(event_pb2.ListEventsRequest()).events)

    file = tmp_path / "site.backup"
    assert "records" in phalanx("backup", "-o", str(file), *at).stdout
    phalanx("backup", "-o", str(file), *at, code=5)
    epoch = controller.site().epoch
    controller.kill()

    phalanx("restore", str(file), "--yes", code=2)
    phalanx("restore", str(file), "--dir", str(tmp_path / "new"), "--yes")
    failed = phalanx("restore", str(file), "--dir", str(tmp_path / "new"), "--yes", code=1)
    assert "holds a journal already" in failed.stderr
    controller.start(tmp_path / "new" / "controller")
    assert controller.site().epoch == epoch + SKIPPED + 1
    for agent in agents:
        agent.connect()
    cell.connect()

    def further() -> bool:
        now = controller.job()
        return now.state == types_pb2.JOB_STATE_RUNNING and now.generation > SKIPPED

    until(further, f"the job goes on in a new generation: {controller.job()}")
    assert [rank.host_id for rank in controller.job().ranks] == [rank.host_id for rank in job.ranks], "no rank was lost"
    assert list(controller.events.Explain(why, timeout=30).chain)[: len(told)] == told


def test_a_plan_asks_the_running_site_and_touches_nothing(controller: Controller) -> None:
    agents = [FakeAgent(controller, f"node-{number}").connect() for number in (1, 2, 3)]
    FakeCell(controller, agents).connect()
    controller.submit("planned-1")
    job = controller.until_state(types_pb2.JOB_STATE_RUNNING)
    node = job.ranks[0].node
    at = ("--address", controller.address, "--plaintext")
    until(lambda: "phalanx_effects_outstanding 0.0" in controller.metrics(), "all effects are answered")
    revision = controller.site().revision

    shown = json.loads(phalanx("plan", "--lose", f"node={node}", *at, "-o", "json").stdout)
    assert shown["simulated"] is True
    assert shown["nodes"] == [node]
    assert shown["jobs"][0]["job"] == "demo"
    assert shown["jobs"][0]["rung"] == ("REPLACE_RANK" if any(r.node != node for r in job.ranks) else "RESTART_JOB")
    assert shown["recovers"] is True
    table = phalanx("plan", "--lose", f"node={node}", *at).stdout
    assert table.startswith("Simulated: 1 node")
    assert "node-7" in phalanx("plan", "--lose", "node=node-7", *at, code=3).stderr
    phalanx("plan", "--lose", "node-7", *at, code=2)
    every = [word for agent in ("node-1", "node-2", "node-3") for word in ("--lose", f"node={agent}")]
    assert json.loads(phalanx("plan", *every, *at, "-o", "json", code=7).stdout)["recovers"] is False
    assert controller.recorded(revision) == []
