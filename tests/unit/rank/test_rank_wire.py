"""What a rank process says and hears: outbox, frames, assignments, settings. No processes, no torch."""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from phalanx.v1 import agent_pb2, local_pb2, types_pb2

from agents.rank.assignment import Assignment, Degrees, assignment_from
from agents.rank.control import Control
from agents.rank.errors import WorkloadRefused
from agents.rank.link import _frames, _Lost
from agents.rank.outbox import RELIABLE_LIMIT, RESEND_S, Outbox, RankFacts
from agents.rank.settings import settings_from

STARTING, PARKED, RUNNING = (types_pb2.RANK_STATE_STARTING, types_pb2.RANK_STATE_PARKED, types_pb2.RANK_STATE_RUNNING)


def shard(step: int) -> local_pb2.LocalRequest:
    return local_pb2.LocalRequest(shard=agent_pb2.ShardWritten(step=step))


def kinds(messages: list[local_pb2.LocalRequest]) -> list[str | None]:
    return [message.WhichOneof("body") for message in messages]


def test_status_and_progress_are_newest_wins() -> None:
    outbox = Outbox(RankFacts(STARTING))
    outbox.status(RankFacts(PARKED))
    outbox.status(RankFacts(RUNNING, rank=1, generation=3))
    for step in (1, 2, 3):
        progress = agent_pb2.StepProgress(step=step)
        outbox.progress(lambda _now, progress=progress: local_pb2.LocalRequest(progress=progress))
    sent = outbox.due("h", 0.0)
    assert kinds(sent) == ["rank_status", "progress"]
    assert sent[0].rank_status.state == RUNNING
    assert sent[1].progress.step == 3
    assert outbox.due("h", 0.1) == []


def test_reliable_is_sent_again_until_acknowledged_and_at_once_after_a_reconnect() -> None:
    outbox = Outbox(RankFacts(STARTING))
    outbox.reliable(("shard", 1, 10), lambda _now: shard(10))
    assert len(outbox.due("h", 0.0)) == 1
    assert outbox.due("h", RESEND_S / 2) == []
    assert len(outbox.due("h", RESEND_S)) == 1
    outbox.reconnected("h", RESEND_S)
    assert len(outbox.due("h", RESEND_S)) == 1
    outbox.acknowledge(("shard", 1, 10))
    outbox.acknowledge(("shard", 1, 10))
    outbox.reconnected("h", 9.0)
    assert outbox.due("h", 9.0) == []


def test_unacknowledged_kind_is_sent_once_per_connection_and_forgotten_with_its_generation() -> None:
    outbox = Outbox(RankFacts(STARTING))
    outbox.reliable(("restore", 4), lambda _now: shard(1), acknowledged=False)
    assert len(outbox.due("h", 0.0)) == 1
    assert outbox.due("h", 100.0) == []
    outbox.reconnected("h", 100.0)
    assert len(outbox.due("h", 100.0)) == 1
    outbox.forget(lambda key: key[1] != 4)  # type: ignore[index]
    outbox.reconnected("h", 200.0)
    assert outbox.due("h", 200.0) == []


def test_outbox_is_bounded_and_counts_what_it_drops() -> None:
    outbox = Outbox(RankFacts(STARTING))
    for step in range(RELIABLE_LIMIT + 5):
        outbox.reliable(step, lambda _now, step=step: shard(step))
    sent = outbox.due("h", 0.0)
    assert len(sent) == RELIABLE_LIMIT
    assert sent[0].shard.step == outbox.dropped == 5


def test_ages_are_those_of_the_moment_of_sending() -> None:
    facts = RankFacts(RUNNING, joining_at=10.0, rendezvous_at=10.5)
    times = facts.message("h", 12.0).times
    assert (times.joining_age_ms, times.rendezvous_age_ms, times.restored_age_ms) == (2000, 1500, 0)
    assert facts.message("h", 10.5).times.rendezvous_age_ms == 1, "reached just now is not 'not yet'"


def test_a_new_token_applies_to_the_same_generation_only() -> None:
    outbox = Outbox(RankFacts(RUNNING, generation=3, token="old"))
    outbox.retoken(2, "other")
    assert outbox.facts.token == "old"
    outbox.retoken(3, "new")
    assert outbox.facts.token == "new"
    assert kinds(outbox.due("h", 0.0)) == ["rank_status"]


def test_frames_are_cut_where_they_end() -> None:
    body = local_pb2.LocalInstruction(shard_ack=local_pb2.ShardAck(step=7)).SerializeToString()
    data = struct.pack(">I", len(body)) + body
    buffer = bytearray(data + data + data[:3])
    assert [frame.shard_ack.step for frame in _frames(buffer)] == [7, 7]
    assert buffer == data[:3]


@pytest.mark.parametrize("data", [struct.pack(">I", (1 << 20) + 1), struct.pack(">I", 3) + b"\xff\xff\xff"])
def test_a_frame_that_is_too_long_or_garbage_ends_the_connection(data: bytes) -> None:
    with pytest.raises(_Lost):
        _frames(bytearray(data))


def message(world: int = 4, rank: int = 1, **parallel: int) -> local_pb2.Assignment:
    return local_pb2.Assignment(
        generation=agent_pb2.ApplyGeneration(
            job_uid="u",
            generation=2,
            world_size=world,
            rows=[agent_pb2.RankRow(rank=r, node="n", address="127.0.0.1") for r in reversed(range(world))],
            parallel=types_pb2.ParallelDegrees(**parallel),
            restore=types_pb2.RestorePoint(step=5, folder="/x", files=[types_pb2.ShardFile(path="dense/a")]),
        ),
        rank=rank,
    )


def test_assignment_is_read_in_rank_order() -> None:
    assignment = assignment_from(message(dp=4, ep=2, tp=1, pp=1, cp=1))
    assert [row.rank for row in assignment.table] == [0, 1, 2, 3]
    assert assignment.degrees == Degrees(dp=4, ep=2)
    assert (assignment.restore.step, assignment.restore.from_scratch) == (5, False)


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (message(dp=3), "do not make 4 ranks"),
        (message(dp=4, ep=3), "ep dividing dp"),
        (message(rank=4, dp=4), "does not list ranks"),
    ],
)
def test_an_assignment_that_does_not_fit_is_refused(broken: local_pb2.Assignment, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        assignment_from(broken)


def test_coordinates_and_groups() -> None:
    degrees = Degrees(tp=2, cp=1, dp=4, pp=2, ep=2)
    assert degrees.world_size == 16
    at = degrees.coordinates(13)
    assert (at.tp, at.dp, at.pp, at.ep, at.edp) == (1, 2, 1, 0, 1)
    assert degrees.data_parallel_ranks(13) == (9, 11, 13, 15)
    assert degrees.expert_parallel_ranks(13) == (13, 15)
    assert degrees.expert_data_parallel_ranks(13) == (9, 13)


@pytest.mark.parametrize("degrees", [Degrees(dp=4, ep=2), Degrees(tp=2, dp=6, ep=3, pp=2), Degrees(dp=1)])
def test_every_dimension_partitions_the_ranks(degrees: Degrees) -> None:
    for peers in (degrees.data_parallel_ranks, degrees.expert_parallel_ranks, degrees.expert_data_parallel_ranks):
        groups = {peers(rank) for rank in range(degrees.world_size)}
        assert sorted(rank for group in groups for rank in group) == list(range(degrees.world_size))


def offer(control: Control, generation: int) -> bool:
    first = assignment_from(message(dp=4))
    values = {name: getattr(first, name) for name in Assignment.__slots__}
    return control.offer(Assignment(**{**values, "generation": generation}))


def test_control_takes_newer_generations_only_and_interrupts_once_for_each() -> None:
    control = Control()
    calls: list[int] = []
    control.on_change(lambda: calls.append(control.newest_generation))
    assert offer(control, 2)
    assert not offer(control, 2)
    assert not offer(control, 1)
    assert offer(control, 5)
    assert calls == [2, 5]
    found = control.wait_newer(2, 0.0)
    assert found is not None
    assert found.generation == 5
    assert control.wait_newer(5, 0.0) is None


def test_a_waiter_wakes_when_the_assignment_comes() -> None:
    control = Control()
    threading.Timer(0.05, offer, (control, 3)).start()
    found = control.wait_newer(0, 60.0)
    assert found is not None


def test_a_stop_request_ends_every_wait() -> None:
    control = Control()
    control.stopping = True
    with pytest.raises(SystemExit) as stop:
        control.wait_newer(0, None)
    assert stop.value.code == 143


def environ(tmp_path: Path, **changes: str) -> dict[str, str]:
    return {
        "PHALANX_NODE": "n1",
        "PHALANX_NODE_SOCKET": "/s",
        "PHALANX_NODE_DIR": str(tmp_path),
        "PHALANX_HOST_ID": "u-1",
        "PHALANX_WORKLOAD": json.dumps({"module": "m", "path": "", "args": {"steps": 3.0}}),
        **changes,
    }


def test_settings_and_proof(tmp_path: Path) -> None:
    (tmp_path / "host.key").write_bytes(b"key")
    settings = settings_from(environ(tmp_path))
    assert (settings.module, settings.args) == ("m", {"steps": 3.0})
    assert settings.proof() == hmac.new(b"key", b"u-1", hashlib.sha256).hexdigest()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"PHALANX_HOST_ID": ""}, "PHALANX_HOST_ID not set"),
        ({"PHALANX_WORKLOAD": "{"}, "not JSON"),
        ({"PHALANX_WORKLOAD": "{}"}, "module, path and args"),
        ({"PHALANX_WORKLOAD": '{"module": ""}'}, "must be strings"),
    ],
)
def test_a_wrong_environment_is_named(tmp_path: Path, changes: dict[str, str], text: str) -> None:
    with pytest.raises(WorkloadRefused, match=text):
        settings_from(environ(tmp_path, **changes))


def test_importing_the_library_imports_no_torch() -> None:
    code = "import sys, agents.rank; agents.rank.RankContext; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_row_of_this_rank_is_enough() -> None:
    order = message(dp=4)
    order.generation.own_rows = True
    del order.generation.rows[:]
    order.generation.rows.add(rank=1, node="n", address="10.0.0.1")
    assignment = assignment_from(order)
    assert (assignment.world_size, assignment.address) == (4, "10.0.0.1")
    order.rank = 2
    with pytest.raises(ValueError, match="does not list rank 2"):
        assignment_from(order)
