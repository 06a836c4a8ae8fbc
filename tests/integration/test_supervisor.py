"""The supervisor with trivial commands: order, restarts, reaping, destruction of a node, and the end of everything."""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.errors import CliError, Exit
from cli.site import read_site, site_path
from cli.supervisor import control, processes
from cli.supervisor.launch import bring_up, start_supervisor, sweep, take_down
from cli.supervisor.layout import SiteOptions, choose_ports, make_run_folder, run_folder
from cli.supervisor.plan import Plan, Unit

DEADLINE_S = 60.0


def until(condition: Callable[[], object], what: str) -> Any:
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {DEADLINE_S} s: {what}")


class Stage:
    """A folder, its supervisor, and shell scripts as units."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.run = run_folder(directory)
        make_run_folder(self.run)
        self.supervisor: subprocess.Popen[bytes] | None = None

    def unit(self, name: str, script: str, **more: Any) -> Unit:
        return Unit(name, ("/bin/sh", "-c", script), str(self.directory / "logs" / f"{name}.log"), **more)

    def start(self, *units: Unit, **more: Any) -> None:
        site = {"address": "127.0.0.1:1", "nodes": []}
        plan = Plan(str(self.directory), str(self.run), units, site, **more)
        self.supervisor = start_supervisor(plan)
        until(lambda: control.socket_path(self.run).exists(), "control socket")

    def call(self, command: str, **more: Any) -> dict[str, Any]:
        return control.call(self.run, {"command": command, **more})

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("status")["units"][name]
        return found

    def wait_state(self, name: str, state: str) -> dict[str, Any]:
        until(lambda: self.status(name)["state"] == state, f"{name} {state}")
        return self.status(name)

    def alive(self) -> set[int]:
        return processes.marked(processes.SITE_MARKER, str(self.run))

    def said(self, name: str) -> list[str]:
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []


def programs(pids: set[int]) -> list[str]:
    """What processes run; shells that only start something are gone when nothing else is left."""
    return sorted(Path(words[0]).name for words in map(processes.command_of, pids) if words and words[0])


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    take_down(tmp_path, lambda _: None)
    if made.supervisor is not None:
        made.supervisor.wait(DEADLINE_S)
    assert made.alive() == set()


def test_units_start_in_order_and_only_when_what_they_need_is_ready(stage: Stage) -> None:
    say = "echo {0} >> order; exec sleep 60"
    stage.start(
        stage.unit("third", say.format("third"), needs=("second",)),
        stage.unit("second", "echo second >> order", one_shot=True, after=("first",)),
        stage.unit("first", say.format("first"), probe=f"unix:{stage.run}/first.sock"),
    )
    until(lambda: stage.said("order") == ["first"], "first")
    assert stage.status("second")["state"] == "waiting"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{stage.run}/first.sock")
        listener.listen()
        stage.wait_state("third", "running")
    until(lambda: stage.said("order")[2:], "third says so")
    assert stage.said("order") == ["first", "second", "third"]
    assert stage.status("second")["state"] == "done"


def test_what_dies_is_restarted_with_growing_delays(stage: Stage) -> None:
    stage.start(stage.unit("weak", "date +%s.%N >> starts; exit 3"), stage.unit("strong", "exec sleep 60"))
    strong = stage.wait_state("strong", "running")["pid"]
    until(lambda: len(stage.said("starts")) >= 4, "four starts")
    starts = [float(line) for line in stage.said("starts")]
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)][:3]
    assert [gap >= least for gap, least in zip(gaps, (0.2, 0.4, 0.8), strict=True)] == [True] * 3
    status = stage.status("weak")
    assert (status["last_exit"], status["restarts"] >= 3) == ("exit code 3", True)
    assert stage.status("strong") == {**stage.status("strong"), "pid": strong, "restarts": 0}


def test_a_killed_unit_comes_back_and_takes_its_group_and_dependants_along(stage: Stage) -> None:
    stage.start(
        stage.unit("head", "sleep 61 & exec sleep 60", kills=("agent",)),
        stage.unit("agent", "exec sleep 60", needs=("head",)),
    )
    head, agent = stage.wait_state("head", "running")["pid"], stage.wait_state("agent", "running")["pid"]
    helper = until(lambda: processes.descendants(head), "child of head").pop()
    stage.call("kill", name="head", signal=signal.SIGKILL)
    until(lambda: not any(map(processes.is_alive, (head, agent, helper))), "the old ones are gone")
    until(lambda: stage.status("agent")["pid"] not in (0, agent), "agent again")
    assert stage.status("head")["last_exit"] == "signal SIGKILL"
    assert stage.status("agent")["last_exit"] == "signal SIGKILL"
    site = read_site(stage.directory)
    assert site is not None
    assert site.document["pids"]["head"] == stage.status("head")["pid"]


def test_a_unit_that_cannot_come_back_rebuilds_its_group(stage: Stage) -> None:
    storage = stage.directory / "storage"
    storage.mkdir()
    gcs = "while ! test -s booted -a -s raylets; do sleep 0.02; done; test -e storage && exit 1; exec sleep 60"
    stage.start(
        stage.unit("gcs", gcs, rebuilds=("boot", "raylet"), wipes=(str(storage),)),
        stage.unit("boot", "echo boot >> booted", one_shot=True),
        stage.unit("raylet", "echo $$ >> raylets; exec sleep 60"),
    )
    until(lambda: len(stage.said("booted")) == 2, "the one-shot ran again")
    until(lambda: len(set(stage.said("raylets"))) == 2, "the raylet is another one")
    stage.wait_state("gcs", "running")
    assert not storage.exists()


def test_orphans_become_the_supervisors_and_are_reaped(stage: Stage) -> None:
    orphan = "echo $$ >> orphan; while ! test -e end; do sleep 0.02; done"
    stage.start(stage.unit("parent", f"(setsid sh -c '{orphan}' &); exec sleep 60"))
    pid = int(until(lambda: stage.said("orphan"), "orphan")[0])
    supervisor = stage.supervisor
    assert supervisor is not None
    until(lambda: processes.parent_of(pid) == supervisor.pid, "it is the supervisor's")
    (stage.directory / "end").touch()
    until(lambda: not Path(f"/proc/{pid}").exists(), "collected, not a zombie")


def test_a_frozen_unit_goes_on_after_its_time(stage: Stage) -> None:
    stage.start(stage.unit("one", "exec sleep 60"))
    pid = stage.wait_state("one", "running")["pid"]

    def is_frozen() -> bool:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"

    stage.call("stop_process", name="one", seconds=600)
    until(is_frozen, "frozen")
    stage.call("stop_process", name="one", seconds=0.3)
    until(lambda: not is_frozen(), "going on")
    assert stage.status("one")["pid"] == pid


def test_destroying_a_node_ends_all_of_it_at_once_and_for_good(stage: Stage) -> None:
    shared = Path(f"/dev/shm/phx-test-{os.getpid()}")
    folder = stage.directory / "nodes" / "a"
    rank = f"(setsid sh -c 'exec 9>{shared}; sleep 61 & trap \"\" TERM; sleep 60' &); exec sleep 60"

    def unit(node: str, script: str) -> Unit:
        folders = (str(stage.directory / "nodes" / node),)
        environment = ((processes.NODE_MARKER, node),)
        return stage.unit(f"agent-{node}", script, environment=environment, folders=folders, node=node)

    stage.start(unit("a", rank), unit("b", "exec sleep 60"), node_paths={"a": (str(folder), f"{stage.run}/a.sock")})
    (stage.run / "a.sock").touch()
    survivor = stage.wait_state("agent-b", "running")["pid"]

    def running() -> list[str]:
        return programs(processes.marked(processes.NODE_MARKER, "a"))

    until(lambda: running() == ["sh", "sleep", "sleep", "sleep"], "agent, rank, its children")
    assert shared.exists()
    assert stage.call("destroy_node", node="a")["killed"] == 4
    assert processes.marked(processes.NODE_MARKER, "a") == set()
    assert not any(path.exists() for path in (folder, shared, stage.run / "a.sock"))
    assert stage.status("agent-a")["state"] == "destroyed"
    assert stage.status("agent-b")["pid"] == survivor
    assert json.loads(site_path(stage.directory).read_text())["destroyed"] == ["a"]
    stage.call("restart_node", node="a")
    until(lambda: folder.is_dir() and shared.exists(), "the node is back")
    take_down(stage.directory, lambda _: None)
    assert not shared.exists()


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"command": "kill", "name": "nobody", "signal": 9}, Exit.NOT_FOUND),
        ({"command": "kill", "name": "two", "signal": 9}, Exit.CONFLICT),
        ({"command": "kill", "name": "one", "signal": 4711}, Exit.USAGE),
        ({"command": "destroy_node", "node": ""}, Exit.NOT_FOUND),
        ({"command": "restart_node", "node": "x"}, Exit.NOT_FOUND),
        ({"command": "dance"}, Exit.USAGE),
        ({}, Exit.USAGE),
    ],
)
def test_requests_that_make_no_sense_are_refused(stage: Stage, request_: dict[str, Any], code: Exit) -> None:
    stage.start(
        stage.unit("one", "exec sleep 60"),
        stage.unit("two", "exec sleep 60", needs=("gate",)),
        stage.unit("gate", "sleep 60", one_shot=True),
    )
    stage.wait_state("one", "running")
    with pytest.raises(CliError) as refused:
        control.call(stage.run, request_)
    assert refused.value.code == code
    assert stage.status("one")["restarts"] == 0


def test_down_ends_everything_in_order_also_what_ignores_sigterm(stage: Stage) -> None:
    wait = "echo {0} >> trapped; while :; do sleep 0.02; done"
    trap = f"trap 'echo {{0}} >> ended; exit 0' TERM; {wait}"
    rank = f"(PHALANX_NODE=a setsid sh -c 'trap \"echo rank >> ended; exit\" TERM; {wait.format('rank')}' &)"
    stage.start(
        stage.unit("agent", f"{rank}; {trap.format('agent')}", stop_order=7, grace_s=60.0),
        stage.unit("stubborn", f"trap '' TERM; {wait.format('stubborn')}", stop_order=3, grace_s=0.2),
        stage.unit("controller", trap.format("controller"), stop_order=0, grace_s=60.0),
        stage.unit("cell-agent", trap.format("cell-agent"), stop_order=1, grace_s=60.0),
    )
    until(lambda: len(stage.said("trapped")) == 5, "all of them listen, or refuse to")
    take_down(stage.directory, lambda _: None)
    assert stage.said("ended") == ["controller", "cell-agent", "rank", "agent"]
    assert stage.alive() == set()
    assert not stage.run.exists()
    assert not site_path(stage.directory).exists()
    assert stage.directory.exists()


def test_down_works_after_the_supervisor_was_killed(stage: Stage) -> None:
    stage.start(stage.unit("one", "(setsid sleep 61 &); exec sleep 60"))
    stage.wait_state("one", "running")
    assert stage.supervisor is not None
    others = {stage.supervisor.pid}
    until(lambda: programs(stage.alive() - others) == ["sleep", "sleep"], "unit and orphan")
    stage.supervisor.kill()
    stage.supervisor.wait()
    assert len(stage.alive()) == 2
    said: list[str] = []
    take_down(stage.directory, said.append)
    assert stage.alive() == set()
    assert not stage.run.exists()
    assert not site_path(stage.directory).exists()
    assert said == ["ended 2 processes that the supervisor had left"]


def test_a_frozen_supervisor_does_not_keep_its_site_up(stage: Stage) -> None:
    stage.start(stage.unit("one", "exec sleep 60"))
    stage.wait_state("one", "running")
    assert stage.supervisor is not None
    stage.supervisor.send_signal(signal.SIGSTOP)
    take_down(stage.directory, lambda _: None)
    assert stage.alive() == set()


def test_in_the_foreground_the_site_ends_with_its_parent(stage: Stage) -> None:
    plan = Plan(str(stage.directory), str(stage.run), (stage.unit("one", "exec sleep 60"),), end_with_parent=True)
    child = os.fork()
    if child == 0:
        start_supervisor(plan)
        time.sleep(60)
        os._exit(0)
    try:
        until(lambda: len(stage.alive()) == 2, "supervisor and unit")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    until(lambda: not stage.alive() and not stage.run.exists(), "all gone in order")


def test_up_cleans_what_a_killed_run_left_keeps_the_journal_and_refuses_a_second_up(stage: Stage) -> None:
    stage.start(stage.unit("one", "exec sleep 60"))
    stage.wait_state("one", "running")
    old = stage.alive()
    journal = stage.directory / "controller" / "journal.db"
    journal.parent.mkdir()
    journal.write_text("acknowledged")
    assert stage.supervisor is not None
    stage.supervisor.kill()
    stage.supervisor.wait()
    said: list[str] = []
    options = SiteOptions(stage.directory, nodes=1, with_cell=False)
    _, stage.supervisor = bring_up(options, said.append)
    assert said == ["ended 1 processes that an earlier run had left"]
    assert not any(map(processes.is_alive, old))
    assert journal.read_text() == "acknowledged"
    with pytest.raises(CliError) as refused:
        bring_up(options, said.append)
    assert refused.value.code == Exit.CONFLICT


def test_a_run_folder_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    run.mkdir(mode=0o755)
    try:
        with pytest.raises(CliError, match="cannot use"):
            make_run_folder(run)
    finally:
        shutil.rmtree(run)


def test_a_taken_port_is_replaced() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        ports = choose_ports(taken, 4)
    assert taken not in ports
    assert len(set(ports)) == 4


def test_sweep_spares_the_caller_and_its_parents(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from cli.supervisor.launch import sweep\n"
        f"print(sweep(Path({str(tmp_path)!r}), 5.0))"
    )
    environment = dict(os.environ) | {processes.SITE_MARKER: str(tmp_path)}
    done = subprocess.run((sys.executable, "-c", script), env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "0")
    assert sweep(tmp_path, 1.0) == 0
