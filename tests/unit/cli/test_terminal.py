"""On a terminal: colours and bars, drawn by the same commands."""

import os
import pty
import subprocess
import sys

from fake_controller import FakeController, Served
from phalanx.v1 import fleet_pb2, job_pb2
from phalanx.v1 import types_pb2 as t


def on_terminal(*command: str) -> str:
    """What a command writes when all its streams are one terminal."""
    main, end = pty.openpty()
    environment = dict(os.environ) | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    with subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=environment, close_fds=True) as process:
        os.close(end)
        written = b""
        while True:
            try:
                data = os.read(main, 65536)
            except OSError:  # Linux: the other end is closed
                break
            written += data
        os.close(main)
        assert process.wait(60) == 0, written.decode()
    return written.decode()


def phalanx(*arguments: str) -> str:
    return on_terminal(sys.executable, "-m", "cli", *arguments)


def test_tables_have_colour(served: Served, controller: FakeController) -> None:
    controller.nodes["node-1"] = fleet_pb2.Node(name="node-1", service=t.NODE_SERVICE_IN_SERVICE)
    shown = phalanx("get", "nodes")
    assert "\x1b[32mIN_SERVICE" in shown
    assert "node-1" in shown


def test_a_watched_job_is_one_line_that_moves(served: Served, controller: FakeController) -> None:
    spec = t.TrainingJobSpec(ranks=4)
    spec.workload.args.update({"steps": 100})
    states = [(10, t.JOB_STATE_RUNNING), (50, t.JOB_STATE_RECOVERING), (100, t.JOB_STATE_SUCCEEDED)]
    controller.watched = [[job_pb2.Job(name="moe", step=step, state=state, spec=spec) for step, state in states]]
    shown = phalanx("watch", "moe")
    assert "[###..........................." in shown
    assert "[###############..............." in shown
    assert shown.count("\r\x1b[2K") == 3


def test_the_board_shows_bars_and_lines() -> None:
    script = """
from cli.render import Board
from phalanx.v1 import job_pb2, types_pb2
board = Board()
job = job_pb2.Job(name="moe", state=types_pb2.JOB_STATE_RUNNING, step=40, loss=2.5)
job.spec.workload.args.update({"steps": 80})
board.show(job)
board.line("an [event] of node-1")
job.step = 80
board.show(job)
board.close()
"""
    shown = on_terminal(sys.executable, "-c", script)
    assert "an [event] of node-1" in shown
    assert "80/80" in shown
    plain = subprocess.run((sys.executable, "-c", script), capture_output=True, text=True, check=True)
    assert plain.stdout == ""
    lines = [line.split("  ")[0] for line in plain.stderr.splitlines()]
    assert lines == ["moe RUNNING", "an [event] of node-1", "moe RUNNING"]
