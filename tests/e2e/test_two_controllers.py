"""Two controllers on one PostgreSQL under a running training: the leader killed, its successor stopped, the database
restarted; ranks keep their processes, and the weights are those of the undisturbed run.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from phalanx.v1 import admin_pb2, fleet_pb2

from cli.supervisor import control
from controlplane.adapters.journal.sql import SqlJournal
from tests.e2e.site import RunningSite, poll
from tests.fixtures.postgres import PostgresServer

pytestmark = pytest.mark.e2e
TAKE_OVER_S = 90.0
"""Nine times what is promised: a busy machine decides no test."""
UNITS = ("controller", "controller-2")
EPOCH_LOST = "exit code 3"


@pytest.fixture
def database(own_postgres: PostgresServer) -> str:
    return own_postgres.url(own_postgres.create())


@pytest.fixture
def pair(tmp_path: Path, database: str) -> Iterator[RunningSite]:
    running = RunningSite(tmp_path / "pair", 3, "--controllers", "2", "--journal", database)
    yield running
    running.down()


def epoch(site: RunningSite) -> int:
    """Epoch of whoever leads, 0 when nobody answers now."""
    try:
        return int(site.client.fleet.GetSite(fleet_pb2.GetSiteRequest(), timeout=1).epoch)
    except grpc.RpcError:
        return 0


def leader(site: RunningSite) -> str:
    """Unit of the controller that leads: either may have been faster at the start."""
    answer = site.client.admin.GetStorage(admin_pb2.GetStorageRequest(), timeout=30)
    return UNITS[site.site.address.split(",").index(answer.controllers[0])]


def serves_later(site: RunningSite, before: int) -> int:
    """Wait for a later epoch."""
    later: int = poll(lambda: (now := epoch(site)) > before and now, f"an epoch after {before}", TAKE_OVER_S)
    return later


def test_the_lead_moves_twice_and_the_database_restarts(
    pair: RunningSite, own_postgres: PostgresServer, database: str
) -> None:
    pair.submit("two", spares=False)
    pair.running("two", step=15)
    pids = pair.pids("two")
    first, killed = poll(lambda: epoch(pair), "somebody leads"), leader(pair)

    control.call(pair.site.run, {"command": "hold", "name": killed, "seconds": 20})
    second = serves_later(pair, first)
    pair.running("two", step=pair.job("two").step + 3)
    assert pair.pids("two") == pids, "no rank was disturbed by a dead leader"

    own_postgres.stop(signal.SIGQUIT)
    poll(lambda: _journal_state(pair) != "ok", "the outage is said", 90)
    own_postgres.start()
    poll(lambda: _journal_state(pair) == "ok", "the outage is over", 90)
    assert poll(lambda: epoch(pair), "somebody leads") == second, "the leader stayed"

    poll(lambda: pair.units()[killed]["state"] == "running", "the first one is back", 120)
    poll(lambda: "standing_by" in _log(pair, killed), "and stands by", 90)
    stopped = leader(pair)
    assert stopped != killed
    pid = pair.units()[stopped]["pid"]
    os.kill(pid, signal.SIGSTOP)
    third = serves_later(pair, second)
    with closing(SqlJournal(database)) as journal:
        led_from = next(entry.revision for entry in journal.read(0, 100_000) if entry.epoch == third)
    os.kill(pid, signal.SIGCONT)
    poll(lambda: EPOCH_LOST in pair.units()[stopped]["last_exit"], "the stopped leader ends by itself", 90)
    with closing(SqlJournal(database)) as journal:
        assert {entry.epoch for entry in journal.read(led_from - 1, 100_000)} == {third}, "it wrote nothing"
    pair.running("two", step=pair.job("two").step + 3)
    assert pair.pids("two") == pids, "ranks keep their processes through all of it"

    job = pair.finished("two")
    assert job.generation == 1
    assert job.result["weights_sha256"] == pair.undisturbed()


def _journal_state(site: RunningSite) -> str:
    try:
        return str(site.client.fleet.GetSite(fleet_pb2.GetSiteRequest(), timeout=2).journal_state)
    except grpc.RpcError:
        return ""


def _log(site: RunningSite, unit: str) -> str:
    """The log of a unit's newest life."""
    text = Path(site.units()[unit]["log"]).read_text()
    return text.rpartition("controller_started")[2]
