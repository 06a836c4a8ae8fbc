"""Type=notify: processes say when they are ready, and not before."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.controller_process import Controller, until
from tests.fixtures.node_memory import forget_memory

LIMIT_S = 60.0


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What systemd listens on."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(path)
        one.settimeout(LIMIT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        yield one


def test_a_controller_is_ready_when_it_stands_by_and_says_when_it_leads(
    supervisor: socket.socket, tmp_path: Path
) -> None:
    controller = Controller(tmp_path).start()
    try:
        assert supervisor.recv(1024).decode().startswith("READY=1\nSTATUS=stands by at")
        assert supervisor.recv(1024).decode().startswith("STATUS=leads with epoch 1 at")
    finally:
        controller.close()
    assert supervisor.recv(1024) == b"STOPPING=1"


def test_a_node_agent_is_ready_when_rank_hosts_can_register(supervisor: socket.socket, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "agents.node", "--controller", "127.0.0.1:9", "--node", "node-1",
            "--dir", f"{tmp_path}/n", "--socket", f"{tmp_path}/s", "--plaintext"]  # fmt: skip
    with (tmp_path / "log").open("wb") as out:
        agent = subprocess.Popen(line, stdout=out, stderr=out)
    try:
        assert supervisor.recv(1024) == b"READY=1\nSTATUS=agent of node-1"
        with socket.socket(socket.AF_UNIX) as host:
            host.connect(f"{tmp_path}/s")
    finally:
        agent.send_signal(signal.SIGTERM)
        until(lambda: agent.poll() is not None, "the agent ends")
        forget_memory(tmp_path / "n")
