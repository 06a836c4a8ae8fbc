"""The site's policy file and retired nodes, on a controller that runs: shown, recorded, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from phalanx.v1 import event_pb2

from tests.fixtures.controller_peers import FakeAgent, FakeCell
from tests.fixtures.controller_process import Controller, until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    file = tmp_path / "policy.toml"
    file.write_text('hang_ms = "20m"\n')
    return file


@pytest.fixture
def controller(tmp_path: Path, policy: Path) -> Iterator[Controller]:
    made = Controller(tmp_path, policy=policy).start()
    yield made
    made.close()


def phalanx(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/proto/gen/python"}
    command = [sys.executable, "-m", "cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def told(controller: Controller, kind: str) -> list[str]:
    answer = controller.events.ListEvents(event_pb2.ListEventsRequest(limit=1_000), timeout=30)
    return [event.message for event in answer.events if event.type == kind]


def test_a_policy_is_shown_and_the_journal_knows_when_it_changed(controller: Controller, policy: Path) -> None:
    at = ("--address", controller.address, "--plaintext")
    shown = json.loads(phalanx("policy", "show", "--changed", *at, "-o", "json").stdout)
    assert shown["settings"]["hang_ms"] == 1_200_000
    assert shown["settings"]["suspicion.lease_s"] * 1_000 == controller.flags["lease_ms"], (
        "what follows from other options is shown too"
    )
    assert told(controller, "PolicyChanged") == ["the site's policy was noted"]

    policy.write_text("hang_ms = 60000\nhang_steps = 70\n")
    controller.kill()
    controller.start()
    assert told(controller, "PolicyChanged")[1:] == [
        "the site's policy changed: hang_ms 1m (was 20m), hang_steps 70 steps (was 50 steps)"
    ]
    controller.kill()
    controller.start()
    assert len(told(controller, "PolicyChanged")) == 2, "the same policy is no news"


def test_a_controller_does_not_start_with_a_policy_that_it_cannot_read(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("[ladder]\ngroup_s = 3\n")
    command = [sys.executable, "-m", "controlplane", "--dir", str(tmp_path), "--listen", "127.0.0.1:1", "--metrics"]
    command += ["127.0.0.1:2", "--checkpoints", str(tmp_path), "--plaintext", "--policy", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--policy" in done.stderr
    assert "nothing is named `ladder.group_s`; did you mean `groups_s`?" in done.stderr


def test_a_node_leaves_for_good_and_its_agent_is_turned_away(controller: Controller) -> None:
    at = ("--address", controller.address, "--plaintext")
    agents = [FakeAgent(controller, f"node-{number}").connect() for number in (1, 2)]
    FakeCell(controller, agents).connect()
    until(lambda: controller.site().nodes == 2, "both nodes are known")
    assert controller.site().accelerators == 4
    phalanx("retire", "node-2", "--reason", "sold", *at, code=2)
    assert "retired at revision" in phalanx("retire", "node-2", "--reason", "sold", "--yes", *at).stdout
    assert (controller.site().nodes, controller.site().accelerators) == (1, 2)
    assert "RETIRED" in phalanx("why", "node", "node-2", *at).stdout
    stream = agents[1].dial()
    until(stream.ended.is_set, "the retired node's agent is answered")
    assert not stream.received
    assert "node-2 is retired and its name stays used" in str(stream.error)
    assert "is retired already" in phalanx("retire", "node-2", "--reason", "sold", "--yes", *at, code=5).stderr
    assert "no node is named" in phalanx("retire", "node-9", "--reason", "sold", "--yes", *at, code=3).stderr
