"""A node with seven of eight devices: from its agent's report to the placement; and one that comes back after its checks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phalanx.v1 import event_pb2, fleet_pb2, types_pb2

from tests.fixtures.controller_peers import FakeCell
from tests.fixtures.controller_process import Controller, until

FAILED, HEALTHY = types_pb2.ACCELERATOR_STATE_FAILED, types_pb2.ACCELERATOR_STATE_HEALTHY
BROKEN = 3


@contextmanager
def real_agent(controller: Controller, folder: Path) -> Iterator[None]:
    """A node agent with eight simulated accelerators."""
    line = [
        *(sys.executable, "-m", "agents.node", "--plaintext", "--controller", controller.address, "--node", "node-1"),
        *("--dir", str(folder / "node"), "--socket", str(folder / "agent.sock"), "--simulated-accelerators", "8"),
    ]
    with (folder / "agent.log").open("wb") as out:
        agent = subprocess.Popen(line, stdout=out, stderr=out)
    try:
        yield
    finally:
        agent.terminate()
        agent.wait(60)


def inject(controller: Controller, code: str) -> None:
    request = fleet_pb2.InjectAcceleratorFaultRequest(
        request_id=f"fault-{code}", node="node-1", accelerator=BROKEN, code=code, message="test"
    )
    controller.fleet.InjectAcceleratorFault(request, timeout=30)


def test_seven_of_eight_devices_take_a_job_of_seven_and_none_of_eight(tmp_path: Path) -> None:
    controller = Controller(tmp_path).start()
    try:
        with real_agent(controller, tmp_path):
            until(lambda: controller.site().nodes, "the node is in")
            cell = FakeCell(controller, []).connect()
            cell.auto = False
            cell.tell(node_1=True)
            inject(controller, "SIM-MEMORY")
            until(lambda: controller.node("node-1").accelerators[BROKEN].state == FAILED, "the device is out")
            states = [device.state for device in controller.node("node-1").accelerators]
            assert states.count(HEALTHY) == 7
            controller.submit("whole", name="whole", ranks=8)
            controller.submit("seven", name="seven", ranks=7)
            placed = until(lambda: [list(r.accelerators) for r in controller.job("seven").ranks if r.node], "placed")
            assert sorted(position for positions in placed for position in positions) == [0, 1, 2, 4, 5, 6, 7]
            assert controller.job("whole").state == types_pb2.JOB_STATE_QUEUED
    finally:
        controller.close()


def test_a_node_is_quarantined_checked_by_its_agent_and_back_on_trial(tmp_path: Path) -> None:
    controller = Controller(tmp_path).start()
    earlier = {"entity": "node", "code": "CHECK-NIC", "message": "loopback: refused"}
    body = {"best": {}, "standing": [earlier], "checked_unix_s": 0.0, "reboot_asked_in": "", "preflight_unix_s": 0.0}
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "checks.json").write_text(json.dumps(body))
    try:
        with real_agent(controller, tmp_path):
            until(lambda: controller.site().nodes, "the node is in")
            until(lambda: controller.node("node-1").service == types_pb2.NODE_SERVICE_PROBATION, "back on trial")
            answer = controller.events.ListEvents(event_pb2.ListEventsRequest(limit=1_000), timeout=30)
            told = [event.type for event in answer.events]
            way = ["NodeQuarantined", "ChecksStarted", "TrialStarted"]
            assert [word for word in told if word in way] == way
            assert not json.loads((tmp_path / "node" / "checks.json").read_text())["standing"]
    finally:
        controller.close()
