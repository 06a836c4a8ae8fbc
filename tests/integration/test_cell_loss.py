"""When Ray itself is lost or hangs, the agent ends with 3 and its supervisor starts a new one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.cell_launcher import CellLauncher
from tests.fixtures.cell_peers import FakeController, wait_for

RAY_LIMIT_S = 8.0
"""A busy machine may keep Ray from answering for some seconds."""


class SmallCell:
    """GCS, head and one agent with a short limit."""

    def __init__(self, root: Path) -> None:
        self.cell = CellLauncher(root / "ray")
        self.controller = FakeController()
        self.log_path = root / "agent.log"
        self.agent: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.cell.start_gcs()
        self.cell.bootstrap()
        self.cell.start_raylet("head")
        self.cell.wait_for_raylet("head")

    def start_agent(self) -> subprocess.Popen[bytes]:
        count = len(self.controller.hellos)
        with open(self.log_path, "ab") as log:
            agent = subprocess.Popen(
                [
                    *(sys.executable, "-m", "agents.cell", "--cell", "small", "--ray-limit-s", str(RAY_LIMIT_S)),
                    *("--plaintext", "--controller", self.controller.address, "--ray-address", self.cell.address),
                    *("--store", "127.0.0.1:1"),
                ],
                env=self.cell.environment,
                stdout=log,
                stderr=log,
            )
        self.agent = agent
        hello = wait_for("hello", lambda: self.controller.hellos[count:])[0]
        assert hello.store_address == ""
        return agent

    def stop(self) -> None:
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait()
        self.cell.stop()
        self.controller.stop()


@pytest.fixture
def small() -> Iterator[SmallCell]:
    root = Path(tempfile.mkdtemp(prefix="phxl-", dir="/tmp"))
    small = SmallCell(root)
    try:
        small.start()
        yield small
    finally:
        small.stop()
        shutil.rmtree(root, ignore_errors=True)


def test_a_hanging_and_a_lost_ray_end_the_agent_with_3(small: SmallCell) -> None:
    agent = small.start_agent()
    gcs = small.cell.processes["gcs"].pid
    os.kill(gcs, signal.SIGSTOP)
    try:
        assert agent.wait(60) == 3
    finally:
        os.kill(gcs, signal.SIGCONT)
    assert '"event": "cell.ray_lost"' in small.log_path.read_text()

    agent = small.start_agent()
    small.cell.destroy("head")
    assert agent.wait(60) == 3
    assert "the head raylet" in small.log_path.read_text()
