"""All streams of a large client are gone at once. The controller must outlive it: grpc once ended with SIGSEGV."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from phalanx.v1 import fleet_pb2

from tests.fixtures.controller_process import Controller, until
from tests.fixtures.secure_site import REPOSITORY

STREAMS = int(os.environ.get("PHALANX_STORM_STREAMS", "200"))
ROUNDS = int(os.environ.get("PHALANX_STORM_ROUNDS", "3"))
"""`PHALANX_STORM_STREAMS=1500 PHALANX_STORM_ROUNDS=10` is the soak."""
LIMIT_S = 120.0


def open_sessions(controller: Controller) -> list[bool]:
    nodes = controller.fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=30).nodes
    return [node.session_open for node in nodes]


def test_a_controller_outlives_clients_that_are_killed(tmp_path: Path) -> None:
    controller = Controller(tmp_path, hello_ms=60_000).start()
    try:
        for number in range(ROUNDS):
            line = [sys.executable, "-m", "tests.fixtures.session_storm", controller.address, str(STREAMS)]
            with subprocess.Popen(line, stdout=subprocess.PIPE, cwd=REPOSITORY) as client:
                assert client.stdout is not None
                assert client.stdout.readline() == b"open\n", "the client opened its streams"
                client.kill()
            end = time.monotonic() + LIMIT_S
            while any(open_sessions(controller)) and time.monotonic() < end:
                time.sleep(0.1)
            assert len(open_sessions(controller)) == STREAMS * 8 // 10
            assert not any(open_sessions(controller)), f"round {number}: all sessions are known to have ended"
        for word in ("background_task_broke", "request_broke", "turn_broke"):
            assert not controller.log_lines(word)
    finally:
        controller.close()
    until(lambda: controller.process is not None and controller.process.poll() == 0, "it ends in order")
