"""The supervisor's Ray cell on the pinned Ray: it starts, is authenticated and on loopback only, and survives kills."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from cli.supervisor import control, processes
from cli.supervisor.launch import start_supervisor, take_down
from cli.supervisor.layout import SiteOptions, make_plan, make_run_folder, run_folder
from cli.supervisor.plan import Plan
from cli.supervisor.ray_cell import Cell, ray_folder

pytest.importorskip("ray")
DEADLINE_S = 60.0

DRIVER = """
import os, subprocess, sys
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(address=sys.argv[1], namespace="phalanx", logging_level="error", log_to_driver=False)
nodes = {n["Labels"].get("phalanx.node"): n["NodeID"] for n in ray.nodes() if n["Alive"]}
@ray.remote(num_cpus=0)
class Rank:
    def start(self):
        return subprocess.Popen(["sleep", "300"], start_new_session=True).pid, os.environ["PHALANX_NODE"]
if sys.argv[2] == "start":
    for name in ("node-1", "node-2"):
        actor = Rank.options(name=name, lifetime="detached", scheduling_strategy=On(nodes[name], soft=False)).remote()
        print(*ray.get(actor.start.remote()))
else:
    print(*sorted(name for name in nodes if name))
    print(*sorted(item["name"] for item in ray.util.list_named_actors(all_namespaces=True)))
"""


def until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {DEADLINE_S} s: {what}")


@dataclasses.dataclass
class RunningCell:
    plan: Plan
    cell: Cell

    def units(self) -> dict[str, dict[str, Any]]:
        units: dict[str, dict[str, Any]] = self.call("status")["units"]
        return units

    def call(self, command: str, **more: Any) -> dict[str, Any]:
        return control.call(Path(self.plan.run), {"command": command, **more})

    def wait(self) -> None:
        until(lambda: all(u["state"] in ("running", "done") for u in self.units().values()), "every unit runs")

    def drive(self, what: str) -> list[str]:
        environment = dict(os.environ) | dict(self.cell.environment())
        command = (sys.executable, "-c", DRIVER, self.cell.gcs, what)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def ours(self) -> set[int]:
        return processes.marked(processes.SITE_MARKER, self.plan.run)


def connections(pid: int) -> list[Any]:
    """What a process listens on and speaks through; nothing once it has ended."""
    try:
        return list(psutil.Process(pid).net_connections("inet"))
    except psutil.NoSuchProcess:
        return []


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCell]:
    directory = tmp_path_factory.mktemp("cell")
    run = run_folder(directory)
    make_run_folder(run)
    plan = make_plan(SiteOptions(directory, nodes=2), run)
    others = ("controller", "store", "agent-node-1", "agent-node-2", "cell-agent")
    units = tuple(
        dataclasses.replace(unit, kills=(), rebuilds=tuple(name for name in unit.rebuilds if name not in others))
        for unit in plan.units
        if unit.name not in others
    )
    plan = dataclasses.replace(plan, units=units)
    supervisor = start_supervisor(plan)
    one = RunningCell(plan, Cell(run / "ray", directory / "cell", int(plan.site["ray"].rpartition(":")[2])))
    until(lambda: control.socket_path(run).exists(), "control socket")
    one.wait()
    yield one
    take_down(directory, lambda _: None)
    supervisor.wait(DEADLINE_S)
    assert one.ours() == set()


def test_the_cell_refuses_who_has_no_token(running: RunningCell) -> None:
    def ask(*metadata: tuple[str, str]) -> str:
        with grpc.insecure_channel(running.cell.gcs) as channel:
            method = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")
            try:
                method(b"", metadata=metadata, timeout=30)
            except grpc.RpcError as error:
                return str(error.code().name)  # type: ignore[attr-defined]
            return "OK"

    assert ask() == "UNAUTHENTICATED"
    assert ask(("authorization", "Bearer wrong")) == "UNAUTHENTICATED"
    assert ask(("authorization", f"Bearer {running.cell.token.read_text()}")) == "OK"
    assert running.cell.token.stat().st_mode & 0o777 == 0o600


def test_ranks_outlive_the_gcs_the_head_and_their_raylet(running: RunningCell) -> None:
    started = [line.split() for line in running.drive("start")]
    ranks = {node: int(pid) for pid, node in started}
    assert set(ranks) == {"node-1", "node-2"}
    listening = {
        (connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
        for pid in running.ours()
        for connection in connections(pid)
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening
    assert {ip for ip, _ in listening} == {"127.0.0.1"}

    for unit in ("gcs", "cell-head", "raylet-node-1"):
        before = running.units()[unit]
        running.call("kill", name=unit, signal=int(signal.SIGKILL))
        until(lambda u=unit, b=before: running.units()[u]["restarts"] > b["restarts"], f"{unit} again")  # type: ignore[misc]
        running.wait()
        assert running.drive("list"), f"a new driver finds the cell after {unit}"
    assert all(processes.is_alive(pid) for pid in ranks.values())
    assert until(lambda: (lines := running.drive("list"))[0] == "node-1 node-2" and lines, "both nodes are members")

    assert running.call("destroy_node", node="node-2")["killed"] >= 4
    assert not processes.is_alive(ranks["node-2"])
    assert processes.is_alive(ranks["node-1"])
    assert not running.cell.folder_of("node-2").exists()


def test_ray_is_found_without_being_imported() -> None:
    script = "import sys; from cli.supervisor.ray_cell import ray_folder; ray_folder(); sys.exit('ray' in sys.modules)"
    subprocess.run((sys.executable, "-c", script), check=True)
    assert (ray_folder() / "core/src/ray/raylet/raylet").exists()
