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
from tests.fixtures.node_memory import forget_memory

FAILED, HEALTHY = types_pb2.ACCELERATOR_STATE_FAILED, types_pb2.ACCELERATOR_STATE_HEALTHY
DEGRADED, SUSPECT = types_pb2.ACCELERATOR_STATE_DEGRADED, types_pb2.ACCELERATOR_STATE_SUSPECT
BROKEN, PARTIAL, CUT_OFF = 3, 5, 7
PLANES = """
vendor = "simulated"
source = "this test"
date = "2026-11-22"
code = [
  { code = "ONE-PLANE-DOWN", level = "DEGRADED", text = "one of two link planes is down" },
  { code = "ALL-PLANES-DOWN", level = "CORDON", text = "both link planes are down" },
]
"""


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
        forget_memory(folder / "node")


def inject(controller: Controller, position: int, code: str) -> None:
    request = fleet_pb2.InjectAcceleratorFaultRequest(
        request_id=f"fault-{code}", node="node-1", accelerator=position, code=code, message="test"
    )
    controller.fleet.InjectAcceleratorFault(request, timeout=30)


def states(controller: Controller) -> list[int]:
    return [device.state for device in controller.node("node-1").accelerators]


def places(controller: Controller, job: str) -> list[int]:
    return sorted(position for rank in controller.job(job).ranks if rank.node for position in rank.accelerators)


def test_part_of_a_node_takes_the_jobs_that_it_can_take(tmp_path: Path) -> None:
    """Of eight devices one is broken, one has lost all its link planes, and one of them: only that one is slower and not out."""
    (tmp_path / "faults.toml").write_text(PLANES)
    controller = Controller(tmp_path, fault_table=tmp_path / "faults.toml").start()
    try:
        with real_agent(controller, tmp_path):
            until(lambda: controller.site().nodes, "the node is in")
            cell = FakeCell(controller, []).connect()
            cell.auto = False
            cell.tell(node_1=True)
            inject(controller, PARTIAL, "ONE-PLANE-DOWN")
            until(lambda: states(controller)[PARTIAL] == DEGRADED, "one plane is down")
            inject(controller, BROKEN, "SIM-MEMORY")
            until(lambda: states(controller)[BROKEN] == FAILED, "a device is out")
            inject(controller, CUT_OFF, "ALL-PLANES-DOWN")
            until(lambda: states(controller)[CUT_OFF] == SUSPECT, "all planes of another one are down")
            assert states(controller).count(HEALTHY) == 5
            assert controller.node("node-1").service == types_pb2.NODE_SERVICE_IN_SERVICE
            controller.submit("whole", name="whole", ranks=8)
            controller.submit("four", name="four", ranks=4)
            assert until(lambda: places(controller, "four"), "placed") == [0, 1, 2, 4]
            controller.submit("two", name="two", ranks=2)
            assert until(lambda: places(controller, "two"), "placed") == [PARTIAL, 6], "slower is not out"
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
