"""Rank hosts whose code was shipped, or comes in a container image."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from agents.cell import rank_host
from agents.node.processes import SessionIdentity, read_stat, session_members, strike
from cli.code import pack
from tests.fixtures.cell_launcher import alive
from tests.fixtures.cell_peers import wait_for
from tests.integration.test_cell_rank_host import REPOSITORY, SLEEP, Bench, bench

__all__ = ["bench"]

IMAGE = f"registry.example/train@sha256:{'0' * 64}"


def ship(bench: Bench, text: str) -> dict[str, str]:
    source = bench.root / "src"
    source.mkdir()
    (source / "train.py").write_text(text)
    packed = pack(source)
    archive = bench.root / "archive.tar.gz"
    archive.write_bytes(packed.data)
    return {"code_digest": packed.digest, "code_archive": str(archive)}


def test_a_shipped_module_is_what_the_rank_process_imports(bench: Bench) -> None:
    origin = ship(bench, "raise SystemExit(f'imported from {__file__}')\n")
    bench.start("h-1", stub=None, origin=origin)
    # The node agent of this bench answers no rank: what is imported is seen without it.
    folder = bench.node.directory / "code" / origin["code_digest"].removeprefix("sha256:")
    end = bench.node.end("h-1")
    assert end.exit.code == 1
    assert (folder / "train.py").is_file()


def test_damaged_code_is_refused_before_anything_runs(bench: Bench) -> None:
    facts = bench.root / "facts.json"
    origin = ship(bench, "")
    with Path(origin["code_archive"]).open("ab") as archive:
        archive.write(b"\0")
    bench.start("h-1", {"dump": str(facts)}, origin=origin)
    end = bench.node.end("h-1")
    assert end.exit.code == 1
    assert "has digest sha256:" in end.exit.message
    assert not facts.exists()
    Path(origin["code_archive"]).unlink()
    bench.start("h-2", {"dump": str(facts)}, origin=origin)
    assert "is shared storage mounted on this node?" in bench.node.end("h-2").exit.message


@pytest.fixture
def runtime(bench: Bench) -> dict[str, str]:
    """An environment in which `podman` is the stand-in."""
    folder = bench.root / "bin"
    folder.mkdir()
    program = folder / "podman"
    source = (REPOSITORY / "tests" / "fixtures" / "container_runtime.py").read_text()
    program.write_text(f"#!{sys.executable}\n{source}")
    program.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "PHALANX_CONTAINER_OPTIONS": "--device 'a b'"}


def calls(bench: Bench) -> list[list[str]]:
    path = bench.node.directory / "runtime.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_the_container_shares_what_the_contract_needs(bench: Bench, runtime: dict[str, str]) -> None:
    facts = bench.root / "facts.json"
    checkpoints = bench.root / "shared" / "checkpoints"
    origin = {"image": IMAGE, "checkpoint_folder": str(checkpoints)}
    host = bench.start("h-1", {"dump": str(facts)}, {"exit": 5}, origin=origin, environment=runtime)
    assert bench.node.host("h-1").contained
    end = bench.node.end("h-1")
    assert (end.exit.code, end.exit.signal, end.exit.group_empty) == (5, 0, True)
    assert host.wait(60) == 0
    (call,) = calls(bench)
    options = call[: call.index(IMAGE)]
    node = str(bench.node.directory)
    for wanted in (
        "--rm", "--network=host", "--pid=host", "--ipc=host", f"--user={os.getuid()}:{os.getgid()}",
        f"--volume={node}:{node}", f"--volume={bench.root}:{bench.root}", f"--volume={checkpoints}:{checkpoints}",
        "--env=PHALANX_WORKLOAD", "--env=PHALANX_HOST_ID",
    ):  # fmt: skip
        assert wanted in options, options
    assert options[options.index("--device") + 1] == "a b"
    assert checkpoints.is_dir()
    assert not any(part.startswith("--env=") and part.count("=") > 1 for part in options)  # no values in the command
    environ = json.loads(facts.read_text())["environ"]
    assert environ["PHALANX_NODE"] == "n0"
    assert "HOME" not in environ


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_signal_in_the_container_is_reported_as_one(bench: Bench, runtime: dict[str, str], number: int) -> None:
    bench.start("h-1", {"signal": int(number)}, origin={"image": IMAGE}, environment=runtime)
    end = bench.node.end("h-1")
    assert (end.exit.code, end.exit.signal, end.exit.group_empty) == (0, number, True)


def contained_pid(bench: Bench, host_id: str) -> int:
    line = wait_for(
        "the rank runs",
        lambda: [row for row in bench.log(host_id).rpartition("\n")[0].splitlines() if "rank stub" in row],
    )
    return int(line[0].split()[-1])


def test_sigterm_reaches_the_rank_in_its_container(bench: Bench, runtime: dict[str, str]) -> None:
    host = bench.start("h-1", SLEEP, origin={"image": IMAGE}, environment=runtime)
    rank = contained_pid(bench, "h-1")
    assert os.getsid(rank) != host.pid
    host.terminate()
    assert bench.node.end("h-1").exit.signal == signal.SIGTERM
    assert not alive(rank)


def test_the_container_ends_with_a_killed_host(bench: Bench, runtime: dict[str, str]) -> None:
    host = bench.start("h-1", SLEEP, {"sleep": True}, origin={"image": IMAGE}, environment=runtime)
    rank = contained_pid(bench, "h-1")
    host.kill()
    wait_for("the rank has ended too", lambda: not alive(rank))


def test_the_node_agent_finds_and_kills_what_runs_in_the_container(bench: Bench, runtime: dict[str, str]) -> None:
    host = bench.start("h-1", SLEEP, origin={"image": IMAGE}, environment=runtime)
    rank = contained_pid(bench, "h-1")
    stat = read_stat(host.pid)
    assert stat is not None
    plain = SessionIdentity(host.pid, stat.start_time)
    contained = SessionIdentity(host.pid, stat.start_time, "h-1")
    assert rank not in [member.pid for member in session_members(plain)]
    assert rank in [member.pid for member in session_members(contained)]
    strike(contained, signal.SIGKILL)
    wait_for("nothing is left", lambda: host.poll() is not None and not strike(contained, None))


def test_the_container_of_a_killed_client_is_removed(bench: Bench, runtime: dict[str, str]) -> None:
    host = bench.start("h-1", SLEEP, origin={"image": IMAGE}, environment=runtime)
    rank = contained_pid(bench, "h-1")
    os.kill(bench.child(host), signal.SIGKILL)
    end = bench.node.end("h-1")
    assert (end.exit.signal, end.exit.group_empty) == (signal.SIGKILL, True)
    assert not alive(rank)
    assert calls(bench)[-1] == ["rm", "--force", "phalanx-h-1"]


def test_without_a_runtime_the_rank_says_what_to_do(bench: Bench) -> None:
    empty = bench.root / "empty"
    empty.mkdir()
    bench.start("h-1", origin={"image": IMAGE}, environment={"PATH": str(empty)})
    end = bench.node.end("h-1")
    assert end.exit.code == rank_host.CODE_NOT_STARTED
    assert "neither podman nor docker is installed" in end.exit.message
    assert shutil.which("podman", path=str(empty)) is None
