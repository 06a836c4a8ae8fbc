"""A real controller and four real agents, one of which spoils what it sends to others: it stays out, and nobody else does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from phalanx.v1 import event_pb2, types_pb2

from tests.fixtures.controller_process import Controller, until
from tests.fixtures.node_memory import forget_memory
from tests.fixtures.ports import free_port

BAD = "node-0"
NODES = [f"node-{number}" for number in range(4)]
OUT, SERVES = types_pb2.NODE_SERVICE_QUARANTINED, types_pb2.NODE_SERVICE_IN_SERVICE
EARLIER = {"entity": "node", "code": "CHECK-NIC", "message": "loopback: refused"}


@contextmanager
def agent(controller: Controller, folder: Path, *options: str) -> Iterator[None]:
    """A node agent with one simulated accelerator, named as its folder."""
    line = [
        *(sys.executable, "-m", "agents.node", "--plaintext", "--controller", controller.address),
        *("--node", folder.name, "--dir", str(folder), "--socket", str(folder / "agent.sock")),
        *("--simulated-accelerators", "1", *options),
    ]
    with (folder / "agent.log").open("wb") as out:
        process = subprocess.Popen(line, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)
        forget_memory(folder)


def told(controller: Controller, kind: str) -> list[str]:
    answer = controller.events.ListEvents(event_pb2.ListEventsRequest(limit=1_000), timeout=30)
    return [event.message for event in answer.events if event.type == kind]


def test_the_node_that_spoils_what_others_get_is_named_and_stays_out(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(f'[quarantine]\npair_ms = "120s"\npair_port = {free_port()}\n')
    controller = Controller(tmp_path, policy=tmp_path / "policy.toml").start()
    with ExitStack() as stack:
        stack.callback(controller.close)
        for name in NODES:
            (tmp_path / name).mkdir()
        for name in NODES[1:]:
            stack.enter_context(agent(controller, tmp_path / name))
        until(lambda: controller.site().nodes == 3, "those in service are there")
        kept = {
            "best": {},
            "standing": [EARLIER],
            "checked_unix_s": 0.0,
            "reboot_asked_in": "",
            "preflight_unix_s": 0.0,
        }
        (tmp_path / BAD / "checks.json").write_text(json.dumps(kept))  # an earlier check has taken it out
        stack.enter_context(agent(controller, tmp_path / BAD, "--simulated-path", "wrong-bytes"))
        until(lambda: controller.log_lines("checks_failed"), "it was tested with others", 240)
        assert told(controller, "PairsAwaited") == [f"{BAD} waits to be tested with others: its own checks passed"]
        (ended,) = told(controller, "ValidationEnded")
        sound, bad = ended.removeprefix("tests in pairs: sound: ").split("; bad: ")
        assert (sorted(sound.split(", ")), bad) == (NODES[1:], BAD)
        (failed,) = told(controller, "ChecksFailed")
        assert "arrived changed" in failed
        assert [controller.node(name).service for name in NODES] == [OUT, SERVES, SERVES, SERVES]
        row = until(lambda: [fault.code for fault in controller.node(BAD).faults], "its agent tells what it has seen")
        assert row == ["CHECK-PAIR"]
