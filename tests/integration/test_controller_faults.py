"""What the controller survives: SIGKILL, SIGSTOP, a full disk, a second controller, a compacted journal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from phalanx.v1 import agent_pb2, event_pb2, fleet_pb2, types_pb2

from controlplane.adapters.journal.sql import SqlJournal
from controlplane.core.records import GenerationStarted
from controlplane.engine.ports import JournalEntry
from controlplane.engine.recover import load
from controlplane.follower import store
from tests.fixtures.controller_peers import FakeAgent, FakeCell
from tests.fixtures.controller_process import Controller, refusal, until

RUNNING = types_pb2.JOB_STATE_RUNNING
LEASE_S = 6.0
"""A busy machine may stop the pretended agents for some seconds."""


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    controller = Controller(tmp_path, lease_ms=round(LEASE_S * 1_000))
    yield controller
    controller.close()


def connect(controller: Controller) -> tuple[list[FakeAgent], FakeCell]:
    agents = [FakeAgent(controller, f"node-{number}").connect() for number in (1, 2)]
    return agents, FakeCell(controller, agents).connect()


def journal(controller: Controller) -> SqlJournal:
    return SqlJournal(f"sqlite:///{controller.folder / 'journal' / 'journal.db'}")


def cordon(controller: Controller, request_id: str, node: str = "node-1") -> None:
    request = fleet_pb2.CordonNodeRequest(request_id=request_id, name=node, owner="test", reason="test")
    controller.fleet.CordonNode(request, timeout=30)


def test_a_killed_controller_comes_back_with_the_same_truth(controller: Controller) -> None:
    controller.start()
    agents, cell = connect(controller)
    for agent in agents:
        agent.auto = False
    controller.submit("kill-1")
    until(lambda: any(e.HasField("apply_generation") for a in agents for e in a.effects), "effects are out")
    sent = {e.effect_id for a in agents for e in a.effects}
    living = {host for agent in agents for host in agent.living()}
    before = controller.job()
    controller.kill()
    controller.start()
    assert controller.site().epoch == 2
    after = controller.job()
    assert (after.uid, after.generation, after.state) == (before.uid, before.generation, before.state)
    assert [(r.host_id, r.node, list(r.accelerators)) for r in after.ranks] == [
        (r.host_id, r.node, list(r.accelerators)) for r in before.ranks
    ]
    for agent in agents:
        agent.effects.clear()
        agent.auto = True
        agent.connect()
    cell.boot_id = "2"
    cell.connect()
    controller.until_state(RUNNING)
    again = {e.effect_id for a in agents for e in a.effects if e.effect_id in sent}
    assert again == sent, "what was outstanding goes out again with the same ids"
    assert not [e for a in agents for e in a.effects if e.HasField("fence_hosts")]
    assert {host for agent in agents for host in agent.living()} >= living
    assert all(e.epoch == 2 for a in agents for e in a.effects)
    job = controller.job()
    assert (job.generation, len(job.recoveries)) == (1, 0)


def test_a_stopped_controller_buries_nobody(controller: Controller) -> None:
    controller.start()
    _, cell = connect(controller)
    controller.submit("stop-1")
    controller.until_state(RUNNING)
    cell.tell(node_1=False, node_2=False)  # the witness that would make silence deadly
    until(lambda: not controller.node("node-2").cell_member, "the witness is heard")
    until(lambda: not controller.site().detector_degraded, "it trusts itself")
    before = len(controller.log_lines("detector_degraded"))
    controller.send(signal.SIGSTOP)
    stopped = time.monotonic()
    until(lambda: time.monotonic() - stopped > 2 * LEASE_S, "two leases")
    controller.send(signal.SIGCONT)
    until(lambda: len(controller.log_lines("detector_degraded")) > before, "it says that it was away")
    until(lambda: not controller.site().detector_degraded, "it sees again")
    listed = controller.fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=30).nodes
    assert {node.liveness for node in listed} == {types_pb2.NODE_LIVENESS_ALIVE}
    verdicts = events(controller, types=("LivenessChanged",))
    assert not [event for event in verdicts if "DEAD" in event.message]
    assert controller.job().generation == 1


def events(controller: Controller, *, types: tuple[str, ...] = ()) -> list[event_pb2.Event]:
    answer = controller.events.ListEvents(event_pb2.ListEventsRequest(limit=5_000), timeout=30)
    return [event for event in answer.events if not types or event.type in types]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("this user cannot mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_stops_commands_with_the_reason_and_nothing_else(controller: Controller, small_disk: Path) -> None:
    controller.start(small_disk)
    agent = FakeAgent(controller, "node-1").connect()
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                os.write(file.fileno(), b"\0" * 4096)
        except OSError:
            pass

    def refused() -> grpc.RpcError | None:
        try:
            cordon(controller, f"full-{time.monotonic_ns()}")
        except grpc.RpcError as error:
            return error
        return None

    error = until(refused, "a command is refused")
    assert refusal(error) == (grpc.StatusCode.UNAVAILABLE, "JOURNAL_UNAVAILABLE")
    assert "disk is full" in str(error.details())
    until(
        lambda: refused() and "disk is full" in controller.site().journal_state, "the site says it, whatever still fits"
    )
    controller.until_logged("journal_blocked")
    sequence = agent.report()
    agent.hosts["stray-1"] = agent_pb2.HostStatus(
        host_id="stray-1", job_uid="stray", state=types_pb2.RANK_STATE_RUNNING, rank=0, generation=1
    )
    blocked = agent.report("stray-1")
    until(lambda: agent.acked == sequence, "a report that changes nothing is acknowledged")
    until(refused, "still refused")
    assert agent.acked == sequence, "not durable, not acknowledged"
    assert not agent.stream.ended.is_set(), "the session stays: ranks run on"
    filler.unlink()
    until(lambda: agent.acked >= blocked, "the same report, once it is durable")
    cordon(controller, "works-again")
    assert controller.site().journal_state == "ok"
    controller.until_logged("journal_writable")


def test_a_taken_port_and_a_foreign_file_are_said_clearly(controller: Controller, tmp_path: Path) -> None:
    with socket.socket() as taken:
        host, _, port = controller.address.partition(":")
        taken.bind((host, int(port)))
        taken.listen()
        ended = subprocess.run(controller.command(), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert f"cannot listen on {controller.address}" in ended.stderr
    assert not (tmp_path / "journal" / "journal.db").exists(), "nobody was led"
    (tmp_path / "journal").mkdir(exist_ok=True)
    (tmp_path / "journal" / "journal.db").write_text("no database" * 1_000)
    ended = subprocess.run(controller.command(), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "journal.db" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_journal_of_a_newer_version_is_not_touched(controller: Controller) -> None:
    controller.start()
    controller.send(signal.SIGTERM)
    assert controller.wait() == 0
    opened = journal(controller)
    newest = opened.bounds()[1]
    opened.append([JournalEntry(newest + 1, 1, 1, "test", "FromTheFuture", 1, "{}")])
    opened.close()
    ended = subprocess.run(controller.command(), capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "FromTheFuture" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_follower_stores_snapshots_and_a_watch_survives_compaction(controller: Controller) -> None:
    controller.flags |= {"snapshot_records": 5}
    controller.start()
    connect(controller)
    controller.submit("snap-1")
    job = controller.until_state(RUNNING)
    opened = journal(controller)
    until(opened.latest_snapshot, "the follower stores one")
    why = event_pb2.ExplainRequest(kind=event_pb2.SUBJECT_KIND_JOB, name="demo")
    told = list(controller.events.Explain(why, timeout=30).chain)
    opened.compact(store(opened, load(opened)).revision)

    watch = controller.events.WatchEvents(event_pb2.WatchEventsRequest(after_revision=1), timeout=30)
    with pytest.raises(grpc.RpcError) as compacted:
        next(watch)
    assert refusal(compacted.value) == (grpc.StatusCode.OUT_OF_RANGE, "COMPACTED")
    oldest = dict(compacted.value.trailing_metadata())["phalanx-oldest-revision"]
    assert int(oldest) == opened.bounds()[0]
    watch = controller.events.WatchEvents(event_pb2.WatchEventsRequest(after_revision=int(oldest)), timeout=30)
    cordon(controller, "after")
    assert any("test cordoned node-1" in event.message for answer in _until_cordon(watch) for event in answer.events)
    with pytest.raises(grpc.RpcError) as future:
        next(controller.events.WatchEvents(event_pb2.WatchEventsRequest(after_revision=10**6), timeout=30))
    assert refusal(future.value) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_IN_FUTURE")
    opened_extent = opened.extent()
    opened.close()
    controller.kill()
    controller.start()
    assert controller.job().uid == job.uid
    assert opened_extent.archived > 0
    assert list(controller.events.Explain(why, timeout=30).chain) == told, "what explains it is in the archive"
    assert GenerationStarted.__name__ in {event.type for event in told}


def _until_cordon(watch: Iterator[event_pb2.WatchEventsResponse]) -> list[event_pb2.WatchEventsResponse]:
    seen = []
    for answer in watch:
        seen.append(answer)
        if any(event.type == "NodeCordoned" for event in answer.events):
            return seen
    return seen
