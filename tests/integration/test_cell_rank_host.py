"""The rank host alone, without Ray: registration, back-off, signals, leftovers, the end of its node."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from phalanx.v1 import cell_pb2

from agents.cell import rank_host
from tests.fixtures.cell_launcher import alive
from tests.fixtures.cell_peers import FakeNodeAgent, kill_session, wait_for

REPOSITORY = Path(__file__).parents[2]
STUB = REPOSITORY / "tests" / "fixtures" / "cell_rank_stub"
SLEEP: dict[str, object] = {"sleep": True}


class Bench:
    """Starts rank hosts beside a fake node agent."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.node = FakeNodeAgent("n0", root / "n0", root / "n0.sock")
        self.hosts: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        host_id: str,
        *actions: dict[str, object],
        arguments: tuple[str, ...] = (),
        stub: Path | None = STUB,
        origin: dict[str, str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """`origin`: fields of the spec that say where the module comes from, instead of a path."""
        spec = cell_pb2.HostSpec(host_id=host_id, node="n0", job_uid="uid", job_name="job")
        spec.workload.module = "train"
        for name, value in (origin or {"path": str(self.root)}).items():
            setattr(spec if name in ("code_archive", "checkpoint_folder") else spec.workload, name, value)
        spec.workload.args.update({"do": list(actions), "learning_rate": 0.5, "steps": 100})
        path = os.pathsep.join(str(part) for part in (stub, REPOSITORY) if part is not None)
        host = subprocess.Popen(
            [sys.executable, "-m", "agents.cell.rank_host", *arguments],
            stdin=subprocess.PIPE,
            cwd=self.node.directory,
            env=os.environ
            | self.node.environment
            | {"PYTHONPATH": path, "PHALANX_HOST_ID": host_id}
            | (environment or {}),
            start_new_session=True,
        )
        self.hosts.append(host)
        assert host.stdin is not None
        with host.stdin as pipe:
            pipe.write(spec.SerializeToString())
        return host

    def log(self, host_id: str) -> str:
        path = self.node.directory / "logs" / f"{host_id}.log"
        return path.read_text() if path.exists() else ""

    def child(self, host: subprocess.Popen[bytes]) -> int:
        path = Path(f"/proc/{host.pid}/task/{host.pid}/children")
        return int(wait_for("child", lambda: path.read_text().split())[0])


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench(Path(tempfile.mkdtemp(prefix="phxh-", dir="/tmp")))
    yield bench
    bench.node.stop()
    for host in bench.hosts:
        kill_session(host.pid)
        host.wait()
    shutil.rmtree(bench.root, ignore_errors=True)


def test_it_imports_neither_ray_nor_torch_nor_grpc() -> None:
    code = "import sys, agents.cell.rank_host; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert {"ray", "torch", "grpc", "asyncio", "structlog"} & set(out.stdout.split()) == set()


def test_it_registers_before_the_child_runs_and_ends_after_the_ack(bench: Bench) -> None:
    bench.node.acknowledge = False
    facts = bench.root / "facts.json"
    host = bench.start("h-1", {"dump": str(facts)}, {"exit": 5})

    register = bench.node.host("h-1")
    assert (register.pid, register.host_pid, register.log_path) == (
        0,
        host.pid,
        f"{bench.node.directory}/logs/h-1.log",
    )
    assert register.proof == hmac.new(bench.node.key, b"h-1", hashlib.sha256).hexdigest()
    end = bench.node.end("h-1")
    assert (end.exit.code, end.exit.group_empty, end.age_ms > 0) == (5, True, True)
    assert host.poll() is None
    bench.node.exits.clear()
    bench.node.acknowledge = True
    bench.node.end("h-1")  # sent again
    assert host.wait(60) == 0
    workload = json.loads(json.loads(facts.read_text())["environ"]["PHALANX_WORKLOAD"])
    assert workload["args"]["learning_rate"] == 0.5
    assert repr(workload["args"]["steps"]) == "100"


def test_without_an_agent_the_child_runs_and_both_are_told_later(bench: Bench) -> None:
    bench.node.stop()
    begun = time.monotonic()
    host = bench.start("h-1", SLEEP)
    child = bench.child(host)
    assert time.monotonic() - begun > rank_host.REGISTER_FIRST_S
    bench.node.start()

    assert bench.node.host("h-1").pid == child
    bench.node.stop()
    os.kill(child, signal.SIGSEGV)
    wait_for("the child is reaped", lambda: not Path(f"/proc/{child}").exists())
    bench.node.start()
    assert bench.node.host("h-1", 2).pid == child
    assert bench.node.end("h-1").exit.signal == signal.SIGSEGV
    assert host.wait(60) == 0


def test_a_refused_host_starts_nothing(bench: Bench) -> None:
    bench.node.refuse = "the end of host h-1 is already on record"
    host = bench.start("h-1", SLEEP)

    assert host.wait(60) == rank_host.EXIT_REFUSED
    assert "already on record" in bench.log("h-1")
    assert "rank stub" not in bench.log("h-1")


def test_sigterm_is_forwarded_and_then_enforced(bench: Bench) -> None:
    host = bench.start("h-1", {"trap_term": True}, {"spawn": "1000"}, SLEEP, arguments=("--grace", "0.3"))
    wait_for("the child ignores SIGTERM", lambda: "SIGTERM is ignored" in bench.log("h-1"))
    host.terminate()
    assert bench.node.end("h-1").exit.signal == signal.SIGKILL
    assert bench.node.end("h-1").exit.group_empty
    assert host.wait(60) == 0

    polite = bench.start("h-2", {"say": "ready"}, SLEEP)
    wait_for("the child runs", lambda: "ready" in bench.log("h-2"))
    polite.terminate()
    assert bench.node.end("h-2").exit.signal == signal.SIGTERM
    assert polite.wait(60) == 0


def test_it_ends_with_its_node(bench: Bench) -> None:
    host = bench.start("h-1", {"daemon": "1000"}, {"say": "ready"}, SLEEP)
    wait_for("the child runs", lambda: "ready" in bench.log("h-1"))
    child = bench.child(host)
    shutil.rmtree(bench.node.directory)
    bench.node.directory.mkdir()  # a new node under the old name is not this host's

    assert host.wait(60) == rank_host.EXIT_NODE_GONE
    assert not alive(child)


def test_the_child_dies_with_a_killed_host(bench: Bench) -> None:
    host = bench.start("h-1", SLEEP)
    child = bench.child(host)
    host.kill()
    wait_for("the child dies", lambda: not alive(child))


def test_the_real_rank_process_reports_a_workload_that_does_not_import(bench: Bench) -> None:
    (bench.root / "train.py").write_text("import no_such_module_of_a_user\n")
    bench.start("h-1", stub=None)

    exit_info = wait_for("end", lambda: bench.node.exits.get("h-1")).exit
    assert exit_info.code != 0
    assert "no_such_module_of_a_user" in exit_info.message


def test_an_end_that_nobody_takes_is_left_in_a_file(bench: Bench) -> None:
    bench.node.acknowledge = False
    host = bench.start("h-1", {"exit": 6}, arguments=("--report-limit", "0.2"))

    assert host.wait(60) == 0
    left = json.loads((bench.node.directory / "exits" / "h-1.json").read_text())
    assert left["host_id"] == "h-1"
    assert left["exit"]["code"] == 6


def test_wrong_use_says_what_is_missing(bench: Bench) -> None:
    out = subprocess.run(
        [sys.executable, "-m", "agents.cell.rank_host"],
        input=b"",
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert out.returncode == rank_host.EXIT_USAGE
    assert b"PHALANX_NODE_SOCKET" in out.stderr
