"""Two controllers on one journal: one leads, the other stands by; killed, stopped, cut off from the database."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from phalanx.v1 import fleet_pb2, types_pb2

from controlplane.adapters.journal.sql import SqlJournal
from controlplane.engine.recover import load
from tests.fixtures.controller_peers import FakeAgent, FakeCell
from tests.fixtures.controller_process import Controller, refusal, until
from tests.fixtures.postgres import PostgresServer

RUNNING = types_pb2.JOB_STATE_RUNNING
EPOCH_LOST = 3
Start = Callable[[str], Controller]


SQLITE, POSTGRES = (pytest.mark.parametrize("journal_url", [kind], indirect=True) for kind in ("sqlite", "postgres"))
"""Where it makes no difference, one kind of journal is enough: every start costs a second."""


@pytest.fixture
def journal_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'journal.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Start]:
    """Starts a controller on a journal without waiting for it; a busy machine may stop a leader for some seconds."""
    made: list[Controller] = []

    def start(url: str) -> Controller:
        folder = tmp_path / f"controller-{len(made) + 1}"
        folder.mkdir()
        flags = {"journal": url, "leader_lease_ms": 8_000, "leader_renew_ms": 500, "snapshot_every_ms": 3_600_000}
        controller = Controller(folder, **flags)
        controller.launch()
        made.append(controller)
        return controller

    yield start
    for controller in made:
        controller.close()


def pair(launch: Start, url: str) -> tuple[Controller, Controller]:
    """A leader and its standby."""
    leader = launch(url)
    until(leader.serving, "the first one leads")
    standby = launch(url)
    standby.until_logged("standing_by")
    return leader, standby


def cordon(controller: Controller, request_id: str, node: str = "node-1") -> None:
    request = fleet_pb2.CordonNodeRequest(request_id=request_id, name=node, owner="test", reason="test")
    controller.fleet.CordonNode(request, timeout=30)


def connect(controller: Controller) -> tuple[list[FakeAgent], FakeCell]:
    agents = [FakeAgent(controller, f"node-{number}").connect() for number in (1, 2)]
    return agents, FakeCell(controller, agents).connect()


def move(agents: list[FakeAgent], cell: FakeCell, controller: Controller) -> None:
    """What agents with two addresses do when their stream ends."""
    for agent in agents:
        agent.controller = controller
        agent.connect()
    cell.controller = controller
    cell.connect()


@SQLITE
def test_a_standby_refuses_and_names_the_leader(launch: Start, journal_url: str) -> None:
    leader, standby = pair(launch, journal_url)
    with pytest.raises(grpc.RpcError) as refused:
        standby.site()
    assert refusal(refused.value) == (grpc.StatusCode.UNAVAILABLE, "NOT_LEADER")
    assert dict(refused.value.trailing_metadata())["phalanx-leader"] == leader.address
    assert leader.address in refused.value.details()
    assert FakeAgent(standby, "node-1").dial().ended.wait(60), "streams are refused too"
    health = health_pb2_grpc.HealthStub(standby.channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert "phalanx_leader 0.0" in standby.metrics()
    assert "phalanx_leader 1.0" in leader.metrics()
    assert leader.site().epoch == 1


@pytest.mark.parametrize(
    ("journal_url", "number"), [("postgres", signal.SIGKILL), ("sqlite", signal.SIGTERM)], indirect=["journal_url"]
)
def test_the_standby_takes_over(launch: Start, journal_url: str, number: signal.Signals) -> None:
    leader, standby = pair(launch, journal_url)
    agents, cell = connect(leader)
    leader.submit("two-1")
    before = leader.until_state(RUNNING)
    cordon(leader, "kept")
    leader.send(number)
    leader.wait()
    until(standby.serving, "the standby serves")
    move(agents, cell, standby)
    assert standby.site().epoch == 2
    after = standby.until_state(RUNNING)
    assert (after.uid, after.generation) == (before.uid, before.generation)
    assert [rank.host_id for rank in after.ranks] == [rank.host_id for rank in before.ranks], "no rank was disturbed"
    assert [c.reason for c in standby.node("node-1").cordons] == ["test"]
    assert "phalanx_leader 1.0" in standby.metrics()
    with closing(SqlJournal(journal_url)) as journal:
        assert load(journal).digest()
        until(lambda: journal.extent().newest == standby.site().revision, "what it tells is what is stored")


@POSTGRES
def test_a_stopped_leader_writes_nothing_and_ends(launch: Start, journal_url: str) -> None:
    leader, standby = pair(launch, journal_url)
    connect(leader)
    leader.send(signal.SIGSTOP)
    until(standby.serving, "the standby serves")
    assert standby.site().epoch == 2
    late = leader.fleet.CordonNode.future(
        fleet_pb2.CordonNodeRequest(request_id="late", name="node-1", owner="late", reason="late"), timeout=30
    )
    leader.send(signal.SIGCONT)
    assert leader.wait() == EPOCH_LOST
    with pytest.raises(grpc.RpcError):
        late.result()
    assert [c.owner for c in standby.node("node-1").cordons] == []
    with closing(SqlJournal(journal_url)) as journal:
        epochs = [entry.epoch for entry in journal.read(0, 10_000)]
    assert epochs == sorted(epochs), "nothing of epoch 1 stands behind epoch 2"


@SQLITE
def test_a_restarted_leader_does_not_wait_for_its_own_lease(launch: Start, journal_url: str) -> None:
    leader = launch(journal_url)
    leader.flags["leader_lease_ms"] = 600_000
    until(leader.serving, "it leads")
    leader.kill()
    leader.start()
    leader.kill()
    leader.start()
    assert leader.site().epoch == 3


def test_a_leader_without_its_database_serves_what_it_can(launch: Start, own_postgres: PostgresServer) -> None:
    url = own_postgres.url(own_postgres.create())
    leader, standby = pair(launch, url)
    agents, _ = connect(leader)
    cordon(leader, "before")
    epoch = leader.site().epoch
    own_postgres.stop(signal.SIGQUIT)
    until(lambda: "is it up" in leader.site().journal_state, "the site says what is wrong, though nobody writes")
    with pytest.raises(grpc.RpcError) as refused:
        cordon(leader, "meanwhile", "node-2")
    assert refusal(refused.value)[0] is grpc.StatusCode.UNAVAILABLE
    assert refusal(refused.value)[1] in ("JOURNAL_UNAVAILABLE", "JOURNAL_UNCERTAIN")
    assert leader.node("node-1").session_open, "sessions stay"
    assert not agents[0].stream.ended.is_set()
    shown = subprocess.run(
        [sys.executable, "-m", "cli", "get", "site", "--address", leader.address, "--plaintext"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert shown.returncode == 7, shown.stderr
    assert "is it up" in shown.stdout + shown.stderr
    own_postgres.start()
    until(lambda: leader.site().journal_state == "ok", "it finds out by itself")
    cordon(leader, "meanwhile", "node-2")
    assert [c.owner for c in leader.node("node-2").cordons] == ["test"]
    assert [c.owner for c in leader.node("node-1").cordons] == ["test"]
    assert leader.site().epoch == epoch, "nobody took over"
    standby.until_logged("standby_waits")
    with closing(SqlJournal(url)) as journal:
        assert {entry.epoch for entry in journal.read(0, 10_000)} == {epoch}
