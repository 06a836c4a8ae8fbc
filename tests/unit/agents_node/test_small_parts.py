"""Sweeping, verification, back-off, durable files, /proc, the executioner."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from phalanx.v1 import agent_pb2

from agents.node import checkpoints, processes
from agents.node.__main__ import parse_config
from agents.node.durable import AgentMemory, AlreadyRunningError, load_or_create_key, lock_folder
from agents.node.executioner import KillPlan, Witness, empty_session
from agents.node.frames import MAX_FRAME_BYTES
from agents.node.link import FIRST_RETRY_S, LAST_RETRY_S, STEADY_AFTER_S, Backoff
from agents.node.observability import Counters
from agents.node.processes import ProcessStat, SessionIdentity


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("{root}/job/g1/step-5", True),
        ("{root}/job/g1", True),
        ("{root}/job/odd", True),  # below the job's folder of an earlier instruction
        ("{elsewhere}/x/g12", True),
        ("{elsewhere}/x/g12/step-4", True),
        ("{elsewhere}/x/g/step-4", False),
        ("{elsewhere}/x/log12", False),
        ("{root}/job/g2", False),  # a running generation writes there
        ("{root}/job", False),
        ("{root}", False),
        ("{root}/job/g2/step-1", True),
        ("{root}/job/g1/", False),
        ("{root}/job/g1/../g1/step-5", False),
        ("{node}/g1/data", False),
        ("job/g1", False),
        ("/g1", False),
        ("/a/g1", False),
        ("/", False),
        ("", False),
    ],
)
def test_only_checkpoint_folders_may_be_swept(tmp_path: Path, folder: str, allowed: bool) -> None:
    root, elsewhere, node = tmp_path / "ckpt", tmp_path / "elsewhere", tmp_path / "node"
    text = folder.format(root=root, elsewhere=elsewhere, node=node)
    refusal = checkpoints.sweep_refusal(text, [str(root / "job")], [str(root / "job" / "g2")], node)
    assert (refusal == "") == allowed, refusal


def test_symbolic_links_do_not_lead_the_sweep_astray(tmp_path: Path) -> None:
    precious = tmp_path / "precious" / "data"
    precious.mkdir(parents=True)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "g1").symlink_to(precious)
    (tmp_path / "x" / "g2").symlink_to(precious.parent)
    for folder in ("x/g1", "x/g2/data"):
        assert checkpoints.sweep_refusal(str(tmp_path / folder), [], [], tmp_path / "node")


def test_links_that_a_job_made_do_not_lead_the_sweep_to_anothers_checkpoints(tmp_path: Path) -> None:
    """`mine/g1/way -> ..` with a `g<digits>` of the other job behind it: both ends look like checkpoints."""
    root, node = tmp_path / "shared", tmp_path / "node"
    victim, mine = root / "victim" / "g3" / "step-5", root / "mine" / "g1"
    victim.mkdir(parents=True)
    mine.mkdir(parents=True)
    (mine / "way").symlink_to(root / "victim")
    (root / "mine" / "g2").symlink_to(root / "victim" / "g3")
    for folder in (mine / "way" / "g3", root / "mine" / "g2" / "step-5"):
        for known in ([], [str(root / "mine")]):
            assert "symbolic link" in checkpoints.sweep_refusal(str(folder), known, [], node)
    (tmp_path / "mounted").symlink_to(root)
    through_a_mount = tmp_path / "mounted" / "victim" / "g3" / "step-5"
    assert not checkpoints.sweep_refusal(str(through_a_mount), [], [], node), (
        "links above the job's folder are the site's"
    )


def test_a_folder_that_cannot_exist_is_not_swept(tmp_path: Path) -> None:
    assert checkpoints.sweep_refusal(f"{tmp_path}/job/g1/\0", [f"{tmp_path}/job"], [], tmp_path / "node")


def test_verify_never_leaves_the_folder_and_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "f").write_bytes(b"abc")
    digest = hashlib.sha256(b"abc").hexdigest()
    stop = threading.Event()
    for path, ok in (("f", True), ("../c/f", False), (str(tmp_path / "c" / "f"), False), ("", False), ("f\0", False)):
        order = agent_pb2.VerifyCheckpoint(folder=str(tmp_path / "c"))
        order.files.add(path=path, bytes=3, sha256=digest)
        assert checkpoints.verify(order, stop).ok == ok
    order = agent_pb2.VerifyCheckpoint(folder=str(tmp_path / "c"))
    order.files.add(path="f", bytes=4, sha256=digest)
    assert checkpoints.verify(order, stop).reason == "3 bytes, 4 were written"
    stop.set()
    with pytest.raises(checkpoints.StoppedError):
        checkpoints.verify(order, stop)


def test_a_reading_with_a_rate_keeps_it_and_can_be_stopped(tmp_path: Path) -> None:
    data = bytes(range(256)) * 8_192  # 2 MiB
    (tmp_path / "f").write_bytes(data)
    order = agent_pb2.VerifyCheckpoint(folder=str(tmp_path), most_bytes_per_s=8 << 20)
    order.files.add(path="f", bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    begun = time.monotonic()
    assert checkpoints.verify(order, threading.Event()).ok
    assert time.monotonic() - begun >= 0.25
    order.most_bytes_per_s = 1
    stop = threading.Event()
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(checkpoints.StoppedError):
        checkpoints.verify(order, stop)


def test_back_off_grows_to_its_limit_and_starts_again_after_a_steady_session() -> None:
    backoff = Backoff()
    delays = [backoff.next_s(0.0) for _ in range(20)]
    assert all(FIRST_RETRY_S <= delay <= LAST_RETRY_S for delay in delays)
    assert min(delays[8:]) >= LAST_RETRY_S / 2
    assert len(set(delays[8:])) > 1, "no jitter"
    assert backoff.next_s(STEADY_AFTER_S) == FIRST_RETRY_S
    assert backoff.next_s(0.0) < 4 * FIRST_RETRY_S


def test_the_epoch_is_remembered_and_never_goes_back(tmp_path: Path) -> None:
    path = tmp_path / "agent.json"
    memory = AgentMemory(path, 1000)
    memory.obey(5, 2000)
    memory.obey(6)
    again = AgentMemory(path, 1000)
    assert (again.highest_epoch, again.orphan_grace_ms) == (6, 2000)
    with pytest.raises(ValueError, match="lower than 6"):
        again.obey(5)


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "host.key"
    key = load_or_create_key(path)
    assert len(key) == 64
    assert key == load_or_create_key(path) == path.read_text().strip().encode()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_has_one_agent(tmp_path: Path) -> None:
    descriptor = lock_folder(tmp_path)
    with pytest.raises(AlreadyRunningError, match="another node agent"):
        lock_folder(tmp_path)
    os.close(descriptor)
    os.close(lock_folder(tmp_path))


def test_counters_log_once_and_stay_bounded() -> None:
    counters = Counters()
    assert counters.first("h", "kind")
    assert not counters.first("h", "kind")
    assert counters.first("h", "other")
    for number in range(10_000):
        counters.first(f"h{number}", "kind")
    assert len(counters._logged) <= 4096


@pytest.mark.parametrize(
    ("state", "threads", "alive"), [("S", 1, True), ("Z", 1, False), ("Z", 3, True), ("X", 1, False)]
)
def test_zombies_do_not_live(state: str, threads: int, alive: bool) -> None:
    assert ProcessStat(1, state, 1, 1, threads, 0).alive == alive


def _leader(*command: str) -> tuple[subprocess.Popen[bytes], SessionIdentity]:
    process = subprocess.Popen(command, start_new_session=True)
    stat = processes.read_stat(process.pid)
    assert stat is not None
    return process, SessionIdentity(process.pid, stat.start_time)


def test_a_stranger_under_a_reused_number_is_never_touched() -> None:
    process, session = _leader("sleep", "60")
    stranger = SessionIdentity(session.leader, session.start_time - 1)
    try:
        asyncio.run(empty_session(stranger, KillPlan(kill_at=0.0)))
        assert processes.is_alive(session.leader, session.start_time)
        assert not processes.is_alive(stranger.leader, stranger.start_time)
    finally:
        process.kill()
        process.wait()


def test_an_unreaped_leader_and_a_member_in_another_group() -> None:
    """A member that left the process group is still of the session; a zombie leader is not a living process."""
    script = "import os, subprocess, time; subprocess.Popen(['sleep', '60'], process_group=0); time.sleep(60)"
    process, session = _leader(sys.executable, "-c", script)
    deadline = time.monotonic() + 60
    while len(processes.session_members(session)) < 2:
        assert time.monotonic() < deadline
        os.sched_yield()
    asyncio.run(asyncio.wait_for(empty_session(session, KillPlan(kill_at=0.0)), 60))
    stat = processes.read_stat(process.pid)
    assert stat is not None
    assert (stat.state, processes.session_members(session)) == ("Z", [])
    process.wait()


def test_a_second_order_hurries_the_first() -> None:
    process, session = _leader("sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    deadline = time.monotonic() + 60
    while len(processes.session_members(session)) < 2:  # the first sleep runs: the trap is set
        assert time.monotonic() < deadline
        os.sched_yield()

    async def scenario() -> float:
        plan = KillPlan(kill_at=time.monotonic() + 600, terminate=True)
        task = asyncio.create_task(empty_session(session, plan))
        started = time.monotonic()
        asyncio.get_running_loop().call_later(0.1, plan.hurry, 0.0)
        await asyncio.wait_for(task, 120)
        return time.monotonic() - started

    assert asyncio.run(scenario()) < 300, "half of the time that the first order gave"
    assert process.wait() == -signal.SIGKILL


def test_the_witness_knows_an_end_at_once_and_refuses_what_is_gone() -> None:
    async def scenario() -> None:
        witness = Witness()
        ended = asyncio.Event()
        process, session = _leader("sleep", "60")
        assert witness.watch(session, ended.set)
        process.kill()
        await asyncio.wait_for(ended.wait(), 60)
        process.wait()
        assert not witness.watch(session, ended.set)
        witness.close()

    asyncio.run(scenario())


def test_the_frame_limit_is_that_of_the_contract() -> None:
    assert MAX_FRAME_BYTES == 1 << 20


def test_the_command_line_of_the_contract(tmp_path: Path) -> None:
    config = parse_config(
        ["--controller", "127.0.0.1:7000", "--node", "n1", "--dir", str(tmp_path), "--socket", "/tmp/s", "--address",
         "10.0.0.1", "--label", "rack=r1", "--label", "power=p=2", "--simulated-accelerators", "2"]
    )  # fmt: skip
    assert config.labels == {"rack": "r1", "power": "p=2"}
    assert (config.address, config.simulated_accelerators) == ("10.0.0.1", 2)
    with pytest.raises(SystemExit):
        parse_config(["--node", "n1"])
