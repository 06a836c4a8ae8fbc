"""Hosts started through a real Ray cell: what is reported of them, and what they survive."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from phalanx.v1 import cell_pb2, types_pb2

from tests.fixtures.cell_launcher import alive
from tests.fixtures.cell_peers import kill_session, wait_for

if TYPE_CHECKING:  # at run time pytest imports it as a plugin, once
    from tests.fixtures.cell_fixtures import CellSite

pytest_plugins = ["tests.fixtures.cell_fixtures"]

ALIVE = cell_pb2.ACTOR_STATE_ALIVE
DEAD = cell_pb2.ACTOR_STATE_DEAD
SLEEP: dict[str, object] = {"sleep": True}


@pytest.fixture
def site(cell_site: CellSite) -> CellSite:
    return cell_site


def actor_pid(host_pid: int) -> int:
    """The Ray worker that started a host."""
    with open(f"/proc/{host_pid}/stat", encoding="utf-8") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def test_a_host_registers_runs_its_process_and_reports_the_end(site: CellSite) -> None:
    facts_path = site.root / "facts.json"
    spec = site.spec("n0", {"dump": str(facts_path)}, {"say": "the last word"}, {"exit": 7})
    site.controller.start_hosts("e-start", spec)

    assert site.controller.result("e-start").ok
    register = site.nodes["n0"].host(spec.host_id)
    assert (register.job_uid, register.job_name) == ("uid", "job")
    end = site.nodes["n0"].end(spec.host_id)
    assert (end.exit.observed, end.exit.code, end.exit.signal, end.exit.group_empty) == (True, 7, 0, True)
    assert not end.exit.final_marker
    assert "the last word" in end.exit.message
    dead = site.controller.actor(spec.host_id, DEAD)
    assert dead.node == "n0"
    assert "ended with exit status 0" in dead.reason
    facts = json.loads(facts_path.read_text())
    assert facts["sid"] == register.host_pid
    assert facts["ppid"] == register.host_pid
    assert facts["environ"]["PHALANX_HOST_ID"] == spec.host_id
    assert facts["environ"]["PHALANX_NODE"] == "n0"
    assert facts["environ"]["PHALANX_JOB"] == "job"
    assert json.loads(facts["environ"]["PHALANX_WORKLOAD"])["module"] == "train"
    assert [name for name in facts["environ"] if name.startswith("RAY_")] == []


def test_a_traceback_and_the_end_of_leftovers_are_reported(site: CellSite) -> None:
    spec = site.spec("n0", {"spawn": "1000"}, {"daemon": "1000"}, {"raise": "shape mismatch"})
    site.controller.start_hosts("e-raise", spec)

    end = site.nodes["n0"].end(spec.host_id)
    assert end.exit.code == 1
    assert end.exit.group_empty
    assert end.exit.message.startswith("Traceback (most recent call last):")
    assert end.exit.message.rstrip().endswith("RuntimeError: shape mismatch")
    host_pid = site.nodes["n0"].host(spec.host_id).host_pid
    wait_for("rank host ends", lambda: not alive(host_pid))


def test_a_signal_is_reported_with_an_unknown_sender(site: CellSite) -> None:
    spec = site.spec("n1", {"signal": int(signal.SIGKILL)})
    site.controller.start_hosts("e-signal", spec)

    end = site.nodes["n1"].end(spec.host_id)
    assert (end.exit.code, end.exit.signal) == (0, signal.SIGKILL)
    assert end.exit.sender == types_pb2.ExitInfo.SENDER_UNKNOWN


def test_repeats_are_harmless_and_have_one_outcome(site: CellSite) -> None:
    spec = site.spec("n0", SLEEP)
    host_pid = site.run_host(spec)
    site.controller.start_hosts(f"start {spec.host_id}", spec)  # the same effect again
    assert site.controller.result(f"start {spec.host_id}", 2).ok
    since = len(site.controller.reports)
    site.controller.start_hosts("another effect, the same host", spec)
    assert site.controller.result("another effect, the same host").ok
    site.controller.actor(spec.host_id, ALIVE, since=since)
    assert [register.host_pid for register in site.nodes["n0"].registered if register.host_id == spec.host_id] == [
        host_pid
    ]

    kill_session(host_pid)
    site.controller.actor(spec.host_id, DEAD)
    since = len(site.controller.reports)
    site.controller.start_hosts("a host id has one life", spec)
    assert site.controller.result("a host id has one life").ok
    site.controller.actor(spec.host_id, DEAD, since=since)


def test_hosts_for_a_node_that_is_not_in_the_cell_fail_and_the_others_start(site: CellSite) -> None:
    good, bad, head = site.spec("n0", {"exit": 0}), site.spec("n9"), site.spec("head")
    site.controller.start_hosts("e-unknown", bad, good, head)

    result = site.controller.result("e-unknown")
    assert not result.ok
    assert "n9 is not in the cell" in result.message
    assert "head is not in the cell" in result.message
    assert site.nodes["n0"].end(good.host_id).exit.code == 0


def test_an_older_epoch_is_refused(site: CellSite) -> None:
    site.controller.start_hosts("e-old", site.spec("n0"), epoch=site.controller.epoch - 1)

    result = site.controller.result("e-old")
    assert not result.ok
    assert "epoch" in result.message


def test_stop_hosts_ends_the_actor_and_not_the_process(site: CellSite) -> None:
    spec = site.spec("n0", SLEEP)
    host_pid = site.run_host(spec)
    child = site.child_of(host_pid)
    site.controller.stop_hosts("e-stop", spec.host_id, "job-that-never-was")

    assert site.controller.result("e-stop").ok
    site.controller.actor(spec.host_id, DEAD)
    assert alive(host_pid)
    assert alive(child)
    kill_session(host_pid)


def test_the_death_of_the_actor_is_evidence_and_the_rank_runs_on(site: CellSite) -> None:
    spec = site.spec("n0", SLEEP)
    host_pid = site.run_host(spec)
    child = site.child_of(host_pid)
    os.kill(actor_pid(host_pid), signal.SIGKILL)

    assert site.controller.actor(spec.host_id, DEAD).node == "n0"
    assert alive(host_pid)
    assert alive(child)
    kill_session(host_pid)


def test_the_rank_dies_with_its_host(site: CellSite) -> None:
    spec = site.spec("n0", SLEEP)
    host_pid = site.run_host(spec)
    child = site.child_of(host_pid)
    os.kill(host_pid, signal.SIGKILL)

    wait_for("the child dies with its parent", lambda: not alive(child))
    assert "signal 9" in site.controller.actor(spec.host_id, DEAD).reason


def test_the_actor_ends_after_its_host(site: CellSite) -> None:
    spec = site.spec("n0", SLEEP)
    host_pid = site.run_host(spec)
    actor = actor_pid(host_pid)
    os.kill(site.child_of(host_pid), signal.SIGTERM)

    assert site.nodes["n0"].end(spec.host_id).exit.signal == signal.SIGTERM
    wait_for("the actor ends", lambda: not alive(actor))
    assert not alive(host_pid)


def test_a_new_agent_adopts_the_actors(site: CellSite) -> None:
    spec = site.spec("n1", SLEEP)
    host_pid = site.run_host(spec)
    site.kill_agent()
    site.controller.start_hosts("lost with the agent", site.spec("n0"))
    hello = site.start_agent()

    assert hello.cell == "c1"
    assert hello.highest_epoch == site.controller.epoch
    assert hello.incarnation == site.cell.cluster_id
    assert hello.store_address == f"127.0.0.1:{site.store.port}"
    assert hello.snapshot.full
    assert {node.node: node.alive for node in hello.snapshot.nodes} == {"n0": True, "n1": True}
    row = next(row for row in hello.snapshot.actors if row.host_id == spec.host_id)
    assert (row.node, row.state) == ("n1", ALIVE)
    site.controller.start_hosts("again after the restart", spec)
    assert site.controller.result("again after the restart").ok
    kill_session(host_pid)
    site.controller.actor(spec.host_id, DEAD)


def test_a_lost_raylet_is_reported_and_the_rank_runs_on(site: CellSite) -> None:
    spec = site.spec("n1", SLEEP)
    host_pid = site.run_host(spec)
    child = site.child_of(host_pid)
    since = len(site.controller.reports)
    site.cell.destroy("n1")

    site.controller.node("n1", alive=False, since=since)
    site.controller.actor(spec.host_id, DEAD)
    site.controller.start_hosts("e-no-raylet", site.spec("n1"))
    assert not site.controller.result("e-no-raylet").ok
    assert alive(host_pid)
    assert alive(child)
    since = len(site.controller.reports)
    site.start_raylet("n1")
    site.controller.node("n1", alive=True, since=since)
    after = site.spec("n1", {"exit": 3})
    site.controller.start_hosts("e-back", after)
    assert site.nodes["n1"].end(after.host_id).exit.code == 3
    kill_session(host_pid)


def test_a_restarted_gcs_disturbs_nothing(site: CellSite) -> None:
    spec = site.spec("n0", SLEEP)
    host_pid = site.run_host(spec)
    site.cell.destroy("gcs")
    site.cell.start_gcs()
    answer = site.cell.bootstrap()

    assert answer["fresh"] is False
    after = site.spec("n0", {"exit": 4})

    site.controller.start_hosts("e-after-gcs", after)
    assert site.controller.result("e-after-gcs").ok
    assert site.nodes["n0"].end(after.host_id).exit.code == 4
    assert alive(host_pid)
    assert site.agent is not None
    assert site.agent.poll() is None
    kill_session(host_pid)
    site.controller.actor(spec.host_id, DEAD)


def test_the_store_is_probed(site: CellSite) -> None:
    since = len(site.controller.reports)
    site.store.stop()
    wait_for("store reported away", lambda: [r for r in site.controller.reports[since:] if not r.store_address])
    since = len(site.controller.reports)
    site.store.start()
    address = f"127.0.0.1:{site.store.port}"
    wait_for("store reported back", lambda: [r for r in site.controller.reports[since:] if r.store_address == address])


def test_a_restarted_controller_gets_everything_again(site: CellSite) -> None:
    spec = site.spec("n0", SLEEP)
    host_pid = site.run_host(spec)
    count = len(site.controller.hellos)
    site.controller.send(None)  # type: ignore[arg-type]  # ends the stream
    wait_for("a new session", lambda: site.controller.hellos[count:])

    snapshot = site.controller.hellos[count].snapshot
    assert [row.state for row in snapshot.actors if row.host_id == spec.host_id] == [ALIVE]
    since = len(site.controller.reports)
    site.controller.send(cell_pb2.CellInstruction(snapshot_request={}))  # type: ignore[arg-type]
    wait_for("a snapshot on request", lambda: [report for report in site.controller.reports[since:] if report.full])
    kill_session(host_pid)


def test_sigterm_ends_the_agent_and_leaves_the_actors(site: CellSite) -> None:
    spec = site.spec("n0", SLEEP)
    host_pid = site.run_host(spec)
    actor = actor_pid(host_pid)
    assert site.agent is not None
    site.agent.send_signal(signal.SIGTERM)

    assert site.agent.wait(60) == 0
    assert alive(actor)
    hello = site.start_agent()
    assert spec.host_id in {row.host_id for row in hello.snapshot.actors}
    kill_session(host_pid)
