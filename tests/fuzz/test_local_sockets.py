"""The Unix sockets of a node agent and of the supervisor under broken framing, random frames and hostile JSON."""

from __future__ import annotations

import json
import os
import random
import selectors
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from phalanx.v1 import local_pb2

from cli.supervisor.control import ControlServer, call, socket_path
from tests.fixtures.controller_process import until
from tests.fixtures.node_memory import forget_memory
from tests.fuzz.generator import SECONDS, SEED, Generator, show

JOB = "j"
DESCRIPTORS_LIMIT = 32
PART_S = SECONDS / 2


class Node:
    """A real node agent whose controller never answers: its socket serves all the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "n.sock"
        self.log = folder / "agent.log"
        command = [
            *(sys.executable, "-m", "agents.node", "--node", "n1", "--plaintext", "--controller", "127.0.0.1:1"),
            *("--dir", str(folder / "n1"), "--socket", str(self.socket), "--simulated-accelerators", "2"),
        ]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | {"PHALANX_NODE": "n1"})
        until(lambda: self.process.poll() is not None or self.answers(), f"the agent listens: {self.log.read_text()}")

    def answers(self) -> bool:
        """Whether a new connection is served: the first frame must register, anything else is refused."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(str(self.socket))
                connection.sendall(framed(local_pb2.LocalRequest(progress={}).SerializeToString()))
                return len(connection.recv(1_000)) > 4
        except OSError:
            return False

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def unbroken(self, descriptors_before: int) -> None:
        assert self.process.poll() is None, self.log.read_text()[-4_000:]
        until(self.answers, "the agent answers")
        text = self.log.read_text(errors="replace")
        at = max(text.find("Traceback"), text.find("broke"))
        assert at < 0, text[max(0, at - 500) : at + 4_000]
        until(lambda: self.descriptors() < descriptors_before + DESCRIPTORS_LIMIT, "closed connections are let go")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        forget_memory(self.folder / "n1")


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    folder = Path(tempfile.mkdtemp(prefix="phxf-", dir="/tmp"))
    node = Node(folder)
    try:
        yield node
    finally:
        node.close()
        shutil.rmtree(folder, ignore_errors=True)


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def test_frames_of_strangers(node: Node) -> None:
    """Random bytes, wrong lengths, half a frame, and registrations without a proof."""
    show(f"PHALANX_FUZZ_SEED={SEED}")
    generator = Generator(SEED, {"": ("j-1", "n1"), "host_id": ("j-1",), "job_uid": (JOB,)})
    before = node.descriptors()
    end = time.monotonic() + PART_S
    while time.monotonic() < end:
        data = b"".join(
            framed(generator.wire(local_pb2.LocalRequest.DESCRIPTOR)) for _ in range(generator.rng.randrange(1, 6))
        )
        if generator.rng.random() < 0.4:
            data = generator.damaged(data)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(node.socket))  # without a limit: an agent that stands still has no room for another
            connection.settimeout(0.02)
            try:
                connection.sendall(data)
                connection.recv(4_000)
            except OSError:
                continue
    node.unbroken(before)


def test_frames_of_a_registered_host_and_rank(node: Node) -> None:
    """A process that has proved who it is says anything, in any order: it may harm its own record only."""
    show(f"PHALANX_FUZZ_SEED={SEED}")
    before = node.descriptors()
    end, rounds = time.monotonic() + PART_S, 0
    while time.monotonic() < end or rounds < 2:
        rounds += 1
        host_id = f"{JOB}-{rounds}"
        command = [sys.executable, "-m", "tests.fuzz.local_peer", str(node.socket), str(node.folder / "n1"), host_id]
        environment = os.environ | {"PHALANX_HOST_ID": host_id, "PHALANX_NODE": "n1"}
        peer = subprocess.run(
            [*command, str(SEED + rounds)], start_new_session=True, env=environment, timeout=200, check=False,
            capture_output=True, text=True,
        )  # fmt: skip
        # Its own exit may be reported by itself, upon which the agent ends what is left of its session.
        assert peer.returncode in (0, -9), peer.stderr + node.log.read_text(errors="replace")[-4_000:]
    node.unbroken(before)


def test_hostile_lines_at_the_supervisor() -> None:
    """Every line that ends gets one answer, and nobody else notices the rest."""
    run = Path(tempfile.mkdtemp(prefix="phxf-", dir="/tmp"))
    selector = selectors.DefaultSelector()
    server = ControlServer(socket_path(run), selector, lambda request: {"ok": True, "keys": len(request)})
    failures: list[BaseException] = []
    ended = threading.Event()

    def serve() -> None:
        try:
            while not ended.is_set():
                for key, _ in selector.select(0.05):
                    key.data()
        except BaseException as error:  # noqa: BLE001 - the supervisor would have died of it
            failures.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        hostile_lines(run, failures)
        assert not failures, repr(failures[0])
        assert call(run, {"command": "status"}, 60.0)["ok"]
    finally:
        ended.set()
        thread.join(5)
        server.close()
        shutil.rmtree(run)


HOSTILE_LINES = (
    b"[" * 60_000, b'{"a":' * 9_000, b"\xff\xfe", b"null", b"1" * 5_000, b"NaN", b'"\\ud800"', b"{}", b"[]", b"",
    b'{"command": {"a": 1}}', b'{"command": "\\u0000"}', b'{"command": "kill", "signal": 1e400}', b"x" * 70_000,
)  # fmt: skip


def hostile_lines(run: Path, failures: list[BaseException]) -> None:
    rng = random.Random(SEED)
    end, rounds = time.monotonic() + PART_S, 0
    while (time.monotonic() < end or rounds < 50) and not failures:
        rounds += 1
        line = rng.choice(HOSTILE_LINES) if rng.random() < 0.5 else rng.randbytes(rng.randrange(1, 200))
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(socket_path(run)))
            connection.settimeout(2)
            try:
                connection.sendall(line + rng.choice((b"\n", b"", b"\n\n\n")))
                if rng.random() < 0.5:
                    connection.shutdown(socket.SHUT_WR)
                    for answer in connection.makefile("rb"):
                        assert "ok" in json.loads(answer)
            except OSError:
                continue
