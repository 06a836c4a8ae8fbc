"""`phalanx up` waits for the controller's word, and says what is wrong when it does not come."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from phalanx.v1 import fleet_pb2, fleet_pb2_grpc
from phalanx.v1 import types_pb2 as t

from cli.client import Client
from cli.errors import CliError, Exit
from cli.site import site_path
from cli.supervisor import control, processes
from cli.supervisor.launch import start_supervisor, take_down, wait_ready
from cli.supervisor.layout import SiteOptions, choose_ports, make_plan, make_run_folder, run_folder
from cli.supervisor.plan import Plan, Unit
from tests.fixtures.controller_process import until


class Fleet(fleet_pb2_grpc.FleetServiceServicer):
    """Shows a node in service a little later at every question."""

    def __init__(self) -> None:
        self.asked = 0
        self.never = False

    def ListNodes(self, request: Any, context: Any) -> fleet_pb2.ListNodesResponse:
        self.asked += 1
        joining = self.never or self.asked < 3
        service = t.NODE_SERVICE_JOINING if joining else t.NODE_SERVICE_IN_SERVICE
        return fleet_pb2.ListNodesResponse(nodes=[fleet_pb2.Node(name="node-1", service=service, session_open=True)])


@dataclasses.dataclass
class Coming:
    """A plan with one stand-in unit, and the controller it would have."""

    fleet: Fleet
    client: Client
    plan: Plan
    said: list[str]

    def wait(self, script: str, timeout_s: float, *, running: bool = False) -> None:
        """`running`: the time counts from when the unit runs."""
        log = Path(self.plan.directory) / "unit.log"
        unit = Unit("agent-node-1", ("/bin/sh", "-c", script), str(log))
        plan = dataclasses.replace(self.plan, units=(unit,))
        supervisor = start_supervisor(plan)
        try:
            if running:
                until(lambda: self.state(Path(plan.run)) == "running", "the unit runs")
            wait_ready(plan, supervisor, self.client, timeout_s, self.said.append)
        finally:
            take_down(Path(plan.directory), self.said.append)
            supervisor.wait(60)

    @staticmethod
    def state(run: Path) -> str:
        try:
            units = control.call(run, {"command": "status"})["units"]
        except CliError:  # the supervisor does not listen yet
            return ""
        return str(units["agent-node-1"]["state"])


@pytest.fixture
def coming(tmp_path: Path) -> Iterator[Coming]:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    fleet = Fleet()
    fleet_pb2_grpc.add_FleetServiceServicer_to_server(fleet, server)
    client = Client(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    server.start()
    run = run_folder(tmp_path)
    make_run_folder(run)
    plan = make_plan(SiteOptions(tmp_path, nodes=1, with_cell=False, plaintext=True), run)
    yield Coming(fleet, client, plan, [])
    client.close()
    server.stop(0).wait()


def test_up_waits_until_the_controller_shows_the_nodes_in_service(coming: Coming) -> None:
    coming.wait("exec sleep 600", 120)
    assert coming.fleet.asked >= 3
    assert coming.said == ["  agent-node-1 runs"]


def test_a_unit_that_keeps_dying_is_shown_with_the_end_of_its_log(coming: Coming) -> None:
    coming.fleet.never = True  # it runs for a moment now and then, and must not pass for ready in one of them
    with pytest.raises(CliError) as failed:
        coming.wait("echo no such port; exit 3", 120)
    assert "`agent-node-1` does not stay up (exit code 3)" in failed.value.what
    assert failed.value.details[-1] == "  | no such port"


def test_up_gives_up_after_its_time_and_names_what_is_missing(coming: Coming) -> None:
    coming.fleet.never = True
    with pytest.raises(CliError) as failed:
        coming.wait("exec sleep 600", 0.5, running=True)
    assert failed.value.code == Exit.TIMED_OUT
    assert "it waits for node-1 in service" in failed.value.what


def test_the_policy_file_goes_to_every_controller(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    make_run_folder(run)
    options = SiteOptions(tmp_path, nodes=1, with_cell=False, plaintext=True, controllers=2, policy="/etc/policy.toml")
    units = [unit for unit in make_plan(options, run).units if "controlplane" in unit.argv]
    assert len(units) == 2
    for unit in units:
        assert unit.argv[unit.argv.index("--policy") + 1] == "/etc/policy.toml"


def test_a_taken_port_is_replaced_unless_it_was_asked_for(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert port not in choose_ports(port, 3)
        command = (sys.executable, "-m", "cli", "up", "--dir", str(tmp_path), "--port", str(port))
        refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (refused.returncode, f"port {port} is taken" in refused.stderr) == (Exit.CONFLICT, True)
    assert list(tmp_path.iterdir()) == []


def test_up_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    command = (sys.executable, "-m", "cli", "up", "--dir", str(tmp_path), "--no-cell")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as up:
        until(lambda: site_path(tmp_path).exists(), "the site comes up")
        os.kill(up.pid, signal.SIGTERM)
        up.communicate(timeout=120)
    assert up.returncode != 0
    assert processes.marked(processes.SITE_MARKER, str(run)) == set()
    assert not run.exists()
    assert not site_path(tmp_path).exists()
