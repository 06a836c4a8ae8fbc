"""Agents and controller of neighbouring releases, live, both ways; and what is too far apart is refused."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from phalanx.v1 import event_pb2, fleet_pb2, types_pb2

from controlplane import __version__ as OURS
from tests.fixtures.controller_peers import FakeAgent, FakeCell
from tests.fixtures.controller_process import Controller, until
from tests.fixtures.node_memory import forget_memory
from tests.fixtures.released import Released, released

OLD = "0.1.0"
LEASE_S = 6.0
"""A busy machine may stop an agent for some seconds."""
FAILED = types_pb2.ACCELERATOR_STATE_FAILED


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Released:
    return released(OLD, tmp_path_factory.mktemp("released"))


class OldController(Controller):
    """The controller of an earlier release."""

    def __init__(self, folder: Path, release: Released) -> None:
        super().__init__(folder)
        self._release = release

    def start(self, folder: Path | None = None) -> OldController:
        line = self._release.command(
            "controlplane", "--dir", str(folder or self.folder / "journal"), "--checkpoints", str(self.folder / "c"),
            "--listen", self.address, "--metrics", self.metrics_address, "--beat-ms", "100",
            "--lease-ms", str(round(LEASE_S * 1_000)),
        )  # fmt: skip
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                line, cwd=self._release.tree, env=self._release.environment(), stdout=out, stderr=out
            )
        until(self.serving, f"the old controller serves: {self.log.read_text()[-2000:]}")
        return self


@contextmanager
def node_agent(controller: Controller, folder: Path, release: Released | None) -> Iterator[Path]:
    """A node agent process of a release, or ours; gives its log."""
    line = [sys.executable, "-m", "agents.node", "--controller", controller.address, "--node", "node-1",
            "--dir", f"{folder}/n", "--socket", f"{folder}/s", "--label", "rack=r1",
            "--simulated-accelerators", "2", *([] if release else ["--plaintext"])]  # fmt: skip
    log = folder / "agent.log"
    with log.open("wb") as out:
        agent = subprocess.Popen(
            line, stdout=out, stderr=out,
            cwd=release.tree if release else None, env=release.environment() if release else None,
        )  # fmt: skip
    try:
        yield log
    finally:
        agent.terminate()
        agent.wait(60)
        forget_memory(folder / "n")


def works_together(controller: Controller, version: str) -> None:
    """A session opens, beats keep it alive for longer than a lease, an effect is answered, its report becomes durable."""

    def node() -> fleet_pb2.Node | None:
        rows = controller.fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=30).nodes
        return rows[0] if rows and rows[0].session_open else None

    joined = until(node, "the node is in")
    assert joined.agent_version == version
    assert len(joined.accelerators) == 2

    request = fleet_pb2.InjectAcceleratorFaultRequest(
        request_id="f-1", node="node-1", accelerator=1, code="ECC", message="skew"
    )
    controller.fleet.InjectAcceleratorFault(request, timeout=30)
    until(
        lambda: controller.node("node-1").accelerators[1].state == FAILED, "the agent's report of the fault is stored"
    )
    until(lambda: effects(controller) == 0, "the effect has been answered")

    since, first_beat_s = controller.site().revision, beat_s(controller)
    until(lambda: beat_s(controller) > first_beat_s + 1.25 * LEASE_S, "beats go on for longer than a lease")
    assert controller.node("node-1").liveness == types_pb2.NODE_LIVENESS_ALIVE
    later = controller.events.ListEvents(event_pb2.ListEventsRequest(after_revision=since), timeout=30).events
    assert [event.type for event in later if event.type in {"NodeSessionChanged", "LivenessChanged"}] == []


def beat_s(controller: Controller) -> float:
    """When the last beat came, on this process's clock."""
    return time.monotonic() - controller.node("node-1").last_beat_age_s


def effects(controller: Controller) -> float:
    lines = [line for line in controller.metrics().splitlines() if line.startswith("phalanx_effects_outstanding ")]
    return float(lines[0].split()[1])


def test_an_agent_one_minor_older_works(old: Released, tmp_path: Path) -> None:
    controller = Controller(tmp_path, lease_ms=int(LEASE_S * 1_000)).start()
    try:
        with node_agent(controller, tmp_path, old):
            works_together(controller, OLD)
        assert not controller.log_lines("version_unknown")
    finally:
        controller.close()


def test_an_agent_one_minor_newer_works(old: Released, tmp_path: Path) -> None:
    controller = OldController(tmp_path, old).start()
    try:
        with node_agent(controller, tmp_path, None) as log:
            works_together(controller, OURS)
        assert '"event": "session.welcomed"' in log.read_text()
    finally:
        controller.close()


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "99.0.0"])
def test_what_is_too_far_apart_is_refused_before_it_touches_anything(controller: Controller, version: str) -> None:
    before = controller.site().revision
    stream = FakeAgent(controller, "node-9").dial(agent_version=version)
    until(stream.ended.is_set, "the session is refused")
    refused(stream.error, version)
    names = [node.name for node in controller.fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=30).nodes]
    assert (names, controller.recorded(before)) == ([], [])


def test_a_cell_that_is_too_far_apart_is_refused(controller: Controller) -> None:
    cell = FakeCell(controller, [])
    cell.version = "0.9.0"
    with pytest.raises(AssertionError):
        cell.connect()
    assert cell.stream is not None
    refused(cell.stream.error, "0.9.0")


def refused(error: grpc.RpcError | None, version: str) -> None:
    assert error is not None
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION  # type: ignore[attr-defined]
    assert ("phalanx-reason", "VERSION_SKEW") in error.trailing_metadata()  # type: ignore[attr-defined]
    text = error.details()  # type: ignore[attr-defined]
    assert version in text
    assert OURS in text
    assert "upgrade" in text or "install" in text


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    one = Controller(tmp_path_factory.mktemp("controller")).start()
    yield one
    one.close()


def test_the_welcome_names_the_controllers_version(controller: Controller) -> None:
    agent = FakeAgent(controller, "node-w").connect(beat=False)
    assert agent.stream is not None
    assert agent.stream.received[0].welcome.controller_version == OURS
    agent.stream.close()
