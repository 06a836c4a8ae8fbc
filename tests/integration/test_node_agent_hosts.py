"""The node agent and rank hosts: registration, assignments, refusals, ends. Real processes and sockets."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import signal
import stat
import struct

from google.protobuf import json_format
from phalanx.v1 import agent_pb2, local_pb2, types_pb2

from tests.fixtures.node_agent_harness import (
    JOB,
    LIMIT_S,
    Agent,
    FakeSession,
    Host,
    Site,
    alive,
    apply_generation,
    until,
    with_site,
)


async def running(session: FakeSession, host: Host, generation: int = 1) -> local_pb2.Assignment:
    """Bind rank 0 to the host and let it say that it runs."""
    session.effect(f"apply-{generation}", apply_generation=apply_generation(generation, {0: host.host_id}))
    assignment = await host.assignment(generation)
    host.status(types_pb2.RANK_STATE_RUNNING, generation, assignment.token, 0)
    await until(session.seen(host.host_id, types_pb2.RANK_STATE_RUNNING), "running")
    return assignment


@with_site
async def test_assignment_holds_the_whole_table_and_its_token_is_taken(site: Site) -> None:
    agent, session = await site.started()
    host = await site.host(session, "j-1")
    parked = session.host("j-1")
    assert parked is not None
    assert (parked.rank, parked.generation, parked.host_pid) == (-1, 0, host.process.pid)
    assignment = await running(session, host)
    assert [row.node for row in assignment.generation.rows] == ["n1", "n2"]
    assert (assignment.rank, list(assignment.accelerators)) == (0, [0])
    row = session.host("j-1")
    assert row is not None
    assert (row.rank, row.generation, row.times.joining_age_ms > 0) == (0, 1, True)
    assert agent.logged("host.registered")[0]["host_id"] == "j-1"


@with_site
async def test_progress_travels_with_beats(site: Site) -> None:
    _, session = await site.started()
    host = await site.host(session, "j-1")
    await running(session, host)
    host.send(progress=agent_pb2.StepProgress(host_id="j-1", generation=1, step=17, loss=2.5, step_time_s=0.1))
    beat = await until(lambda: [beat for beat in session.beats if beat.progress], "progress")
    progress = beat[0].progress[0]
    assert (progress.job_uid, progress.rank, progress.step, progress.loss) == (JOB, 0, 17, 2.5)
    seen = len(session.beats)
    await until(lambda: len(session.beats) > seen + 2, "more beats")
    host.send(progress=agent_pb2.StepProgress(host_id="j-1", generation=1, step=18, loss=2.4, step_time_s=0.1))
    await until(lambda: session.beats[-1].progress, "the next step")
    told = [row.step for beat in session.beats for row in beat.progress]
    assert told == [17, 18], "each step once: a stream loses nothing"


@with_site
async def test_patches_merge_and_unknown_bases_ask_for_the_full_table(site: Site) -> None:
    _, session = await site.started()
    host = await site.host(session, "j-1")
    session.effect("e1", apply_generation=apply_generation(1, {0: "j-1"}, world=3))
    await host.assignment(1)
    session.effect("e2", apply_generation=apply_generation(2, {0: "j-1"}, base=1, rows={1: "n9"}, world=3))
    assert [row.node for row in (await host.assignment(2)).generation.rows] == ["n1", "n9", "n3"]
    # Smaller world: ranks above it are dropped from the base.
    session.effect("e3", apply_generation=apply_generation(3, {0: "j-1"}, base=2, rows={}, world=2))
    assert [row.node for row in (await host.assignment(3)).generation.rows] == ["n1", "n9"]
    session.effect("e4", apply_generation=apply_generation(5, {0: "j-1"}, base=4, rows={1: "n2"}))
    result = await until(lambda: session.result("e4"), "the answer")
    assert (result.ok, result.message) == (False, "need full table")
    session.effect("e4", apply_generation=apply_generation(5, {0: "j-1"}))
    await host.assignment(5)
    session.effect("e6", apply_generation=apply_generation(4, {0: "j-1"}))
    result = await until(lambda: session.result("e6"), "the answer")
    assert (result.ok, result.message) == (False, "generation 4 is older than 5, which this node already has")


@with_site
async def test_a_process_whose_library_is_older_gets_the_whole_table(site: Site) -> None:
    _, session = await site.started()
    assert session.hello.own_rows
    newer, older = await site.host(session, "j-1", "--own-rows"), await site.host(session, "j-2")
    own = apply_generation(1, {0: "j-1"}, rows={0: "n1"}, world=50_000)
    own.own_rows = True
    session.effect("e1", apply_generation=own)
    assert [row.rank for row in (await newer.assignment(1)).generation.rows] == [0]
    own = apply_generation(2, {1: "j-2"}, rows={1: "n2"}, world=3)
    own.own_rows = True
    session.effect("e2", apply_generation=own)
    result = await until(lambda: session.result("e2"), "the answer")
    assert (result.ok, result.need_full) == (False, True)
    assert "j-2" in result.message
    session.effect("e2", apply_generation=apply_generation(2, {1: "j-2"}, world=3))
    assert [row.rank for row in (await older.assignment(2)).generation.rows] == [0, 1, 2]


@with_site
async def test_bindings_to_unknown_or_exited_hosts_fail_by_name(site: Site) -> None:
    _, session = await site.started()
    host = await site.host(session, "j-1")
    session.effect("e1", apply_generation=apply_generation(1, {0: "j-1", 1: "nobody"}))
    result = await until(lambda: session.result("e1"), "the answer")
    assert (result.ok, result.message) == (False, "host nobody is not known on this node")
    assert not host.instructions("assignment"), "all bindings hold, or none is made"
    session.effect("e2", fence_hosts=agent_pb2.FenceHosts(host_ids=["j-1"]))
    await until(session.emptied("j-1"), "the fence")
    session.effect("e3", apply_generation=apply_generation(2, {0: "j-1"}))
    result = await until(lambda: session.result("e3"), "the answer")
    assert (result.ok, result.message) == (False, "host j-1 has exited or is being fenced")


@with_site
async def test_wrong_tokens_and_older_generations_are_refused(site: Site) -> None:
    agent, session = await site.started()
    host = await site.host(session, "j-1")
    first = await running(session, host)
    for _ in range(2):
        host.status(types_pb2.RANK_STATE_PAUSED, 1, "0" * 32, 0)
    await until(lambda: len(host.instructions("refused")) == 2, "wrong tokens")
    session.effect("e2", apply_generation=apply_generation(2, {0: "j-1"}))
    second = await host.assignment(2)
    assert second.token != first.token
    host.status(types_pb2.RANK_STATE_PAUSED, 1, first.token, 0)
    host.send(shard=agent_pb2.ShardWritten(job_uid=JOB, generation=1, step=5, rank=0))
    host.send(final_marker=local_pb2.FinalMarker(host_id="j-1", generation=1, token=first.token))
    host.status(types_pb2.RANK_STATE_EXITED, 2, second.token, 0)
    await until(lambda: len(host.instructions("refused")) == 6, "old ones")
    host.status(types_pb2.RANK_STATE_JOINING, 2, second.token, 0)
    row = await until(session.seen("j-1", types_pb2.RANK_STATE_JOINING), "the right token")
    assert row.generation == 2
    assert not any(report.shards for report in session.reports)
    assert all(row.state != types_pb2.RANK_STATE_PAUSED for report in session.reports for row in report.hosts)
    await agent.kill(signal.SIGTERM)
    counters = agent.logged("agent.stopping")[0]["counters"]
    assert counters["local_refused.wrong_token"] == 2
    assert counters["local_refused.older_generation"] == 3
    assert [entry["kind"] for entry in agent.logged("local.refused")] == ["wrong_token", "older_generation", "state"]


@with_site
async def test_the_assignment_is_sent_again_on_reconnect(site: Site) -> None:
    _, session = await site.started()
    host = await site.host(session, "j-1")
    host.command(hang_up="rank", for_s=0.3)
    session.effect("e1", apply_generation=apply_generation(1, {0: "j-1"}))
    assert (await until(lambda: session.result("e1"), "accepted")).ok
    assignment = await host.assignment(1)
    host.status(types_pb2.RANK_STATE_JOINING, 1, assignment.token, 0)
    await until(session.seen("j-1", types_pb2.RANK_STATE_JOINING), "joined")


@with_site
async def test_fence_kills_the_whole_group_and_reports_it_empty(site: Site) -> None:
    _, session = await site.started()
    stubborn = await site.host(session, "j-1", "--ignore-sigterm")
    other = await site.host(session, "j-2")
    session.effect("e1", fence_hosts=agent_pb2.FenceHosts(host_ids=["j-1"], grace_ms=200, reason="replaced"))
    result = await until(lambda: session.result("e1"), "the fence")
    assert result.ok
    row = session.host("j-1")
    assert row is not None, "the end is told before the fence's result"
    assert (row.state, row.exit.group_empty) == (types_pb2.RANK_STATE_EXITED, True)
    assert (row.exit.sender, row.exit.message) == (types_pb2.ExitInfo.SENDER_AGENT, "fenced: replaced")
    exits = [r for report in session.reports for r in report.hosts if r.state == types_pb2.RANK_STATE_EXITED]
    assert all(r.exit.group_empty for r in exits), "EXITED before its group was empty"
    assert stubborn.gone()
    assert not other.gone()


@with_site
async def test_fence_of_unknown_hosts(site: Site) -> None:
    _, session = await site.started()
    session.effect("e1", fence_hosts=agent_pb2.FenceHosts(host_ids=["j-9"]))
    assert (await until(lambda: session.result("e1"), "the fence")).ok
    row = session.host("j-9")
    assert row is not None
    assert (row.state, row.exit.observed, row.exit.group_empty) == (types_pb2.RANK_STATE_EXITED, False, True)
    late = Host(site, "j-9")
    site.hosts.append(late)
    await until(late.gone, "a late arrival under a fenced id is ended")


@with_site
async def test_fence_finds_processes_that_never_registered(site: Site) -> None:
    _, session = await site.started()
    process = await asyncio.create_subprocess_exec(
        "sleep", "600", start_new_session=True, env={**os.environ, "PHALANX_NODE": "n1", "PHALANX_HOST_ID": "j-8"}
    )
    foreign = await asyncio.create_subprocess_exec(
        "sleep", "600", start_new_session=True, env={**os.environ, "PHALANX_NODE": "n2", "PHALANX_HOST_ID": "j-8"}
    )
    session.effect("e1", fence_hosts=agent_pb2.FenceHosts(host_ids=["j-8"]))
    assert (await until(lambda: session.result("e1"), "the fence")).ok
    assert not alive(process.pid)
    assert alive(foreign.pid), "a process of another node was touched"
    foreign.kill()
    await process.wait()
    await foreign.wait()


@with_site
async def test_a_vanished_host_takes_its_group_with_it(site: Site) -> None:
    _, session = await site.started()
    host = await site.host(session, "j-1")
    host.process.kill()
    row = await until(session.emptied("j-1"), "the end")
    assert (row.state, row.exit.observed) == (types_pb2.RANK_STATE_EXITED, False)
    assert row.exit.sender == types_pb2.ExitInfo.SENDER_UNSPECIFIED
    assert host.gone(), "its child was left running"


@with_site
async def test_an_end_that_was_left_in_a_file_is_found(site: Site) -> None:
    agent, first = await site.started()
    host = await site.host(first, "j-1")
    await agent.kill()
    left = local_pb2.HostExit(host_id="j-1", exit=types_pb2.ExitInfo(observed=True, code=42, message="no disk"))
    (site.directory / "exits").mkdir()
    (site.directory / "exits" / "j-1.json").write_text(
        json_format.MessageToJson(left, preserving_proto_field_name=True)
    )
    os.killpg(host.process.pid, signal.SIGKILL)
    _, second = await site.started()
    row = await until(second.emptied("j-1"), "the end")
    assert (row.exit.observed, row.exit.code, row.exit.message) == (True, 42, "no disk")


@with_site
async def test_an_observed_exit_is_told_at_once_and_again_when_empty(site: Site) -> None:
    _, session = await site.started()
    host = await site.host(session, "j-1")
    assignment = await running(session, host)
    marker = local_pb2.FinalMarker(host_id="j-1", generation=1, token=assignment.token, result={"loss": "1.5"})
    host.send(progress=agent_pb2.StepProgress(host_id="j-1", generation=1, step=20, loss=1.5))
    host.send(final_marker=marker)
    await until(lambda: host.instructions("final_marker_ack"), "the marker's ack")
    host.send("host", host_exit=local_pb2.HostExit(host_id="j-1", exit=types_pb2.ExitInfo(observed=True, code=0)))
    await until(lambda: host.instructions("host_exit_ack"), "the exit's ack")
    await until(session.seen("j-1", types_pb2.RANK_STATE_EXITED), "the exit")
    told = [row for report in session.reports for row in report.hosts if row.state == types_pb2.RANK_STATE_EXITED]
    assert not told[0].exit.group_empty, "the rank host still lived"
    assert [row.step for beat in session.beats for row in beat.progress][-1:] == [20], (
        "the last step came before the end"
    )
    await until(lambda: not alive(host.child), "the rest of the group is killed")
    row = await until(session.emptied("j-1"), "the end")
    assert (row.exit.observed, row.exit.code, row.exit.final_marker) == (True, 0, True)
    assert dict(row.exit.result) == {"loss": "1.5"}
    assert row.exit.sender == types_pb2.ExitInfo.SENDER_UNSPECIFIED
    session.effect("e9", forget_hosts=agent_pb2.ForgetHosts(host_ids=["j-1"]))
    assert (await until(lambda: session.result("e9"), "forgotten")).ok
    session.send(snapshot_request=agent_pb2.SnapshotRequest())
    await until(lambda: session.reports[-1].full, "a snapshot")
    assert not session.reports[-1].hosts


@with_site
async def test_a_silent_host_that_lives_is_lost_and_not_killed(site: Site) -> None:
    _, session = await site.started()
    host = await site.host(session, "j-1")
    for role in ("host", "rank"):
        host.command(hang_up=role, for_s=3_600)
    await until(session.seen("j-1", types_pb2.RANK_STATE_LOST), "unknown is not dead")
    assert not host.gone()
    for role in ("host", "rank"):
        host.command(hang_up=role, for_s=0)
    await until(session.seen("j-1", types_pb2.RANK_STATE_STARTING), "it came back")


@with_site
async def test_a_killed_agent_adopts_living_hosts(site: Site) -> None:
    agent, first = await site.started()
    living = await site.host(first, "j-1")
    dying = await site.host(first, "j-2")
    assignment = await running(first, living)
    living.command(status=_encoded(assignment))
    living.send(progress=agent_pb2.StepProgress(host_id="j-1", generation=1, step=1))
    await until(lambda: any(beat.progress for beat in first.beats), "it will say so when it registers again")
    await agent.kill()
    dying.process.kill()
    os.kill(dying.child, signal.SIGKILL)
    agent, second = await site.started()
    await until(second.emptied("j-2"), "the one that ended meanwhile")
    row = second.host("j-2")
    assert row is not None
    assert not row.exit.observed
    row = await until(second.seen("j-1", types_pb2.RANK_STATE_RUNNING), "the one that lives")
    assert row is not None
    assert (row.generation, row.rank) == (1, 0)
    await until(lambda: len(living.instructions("registered")) >= 4, "host and rank came back")
    # The token of before still holds, and the tables too: a patch needs no full table.
    living.status(types_pb2.RANK_STATE_PAUSED, 1, assignment.token, 0)
    await until(second.seen("j-1", types_pb2.RANK_STATE_PAUSED), "the old token")
    second.effect("e2", apply_generation=apply_generation(2, {0: "j-1"}, base=1, rows={1: "n7"}))
    assert [row.node for row in (await living.assignment(2)).generation.rows] == ["n1", "n7"]
    assert not living.gone()
    assert not [entry for entry in agent.events if entry["event"] == "host.late_arrival"]


def _encoded(assignment: local_pb2.Assignment) -> str:
    status = local_pb2.RankStatus(
        host_id="j-1", state=types_pb2.RANK_STATE_RUNNING, rank=0, generation=1, token=assignment.token
    )
    return base64.b64encode(status.SerializeToString()).decode()


async def _raw(site: Site, data: bytes) -> bytes:
    """Write bytes to the socket, return what comes until the agent closes."""
    reader, writer = await asyncio.open_unix_connection(str(site.socket))
    writer.write(data)
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(), LIMIT_S)
    writer.close()
    return answer


async def _refusal(site: Site, request: local_pb2.LocalRequest) -> str:
    body = request.SerializeToString()
    answer = await _raw(site, struct.pack(">I", len(body)) + body)
    return local_pb2.LocalInstruction.FromString(answer[4:]).refused.reason


@with_site
async def test_wrong_proof_and_foreign_processes_are_refused(site: Site) -> None:
    agent, session = await site.started()
    assert stat.S_IMODE(site.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE((site.directory / "host.key").stat().st_mode) == 0o600
    host = await site.host(session, "j-1")
    register = local_pb2.HostRegister(host_id="j-2", job_uid=JOB, host_pid=os.getpid(), proof="00" * 32)
    assert "host.key" in await _refusal(site, local_pb2.LocalRequest(host_register=register))
    rank = local_pb2.RankRegister(host_id="j-1", pid=os.getpid(), proof="00" * 32)
    assert "host.key" in await _refusal(site, local_pb2.LocalRequest(rank_register=rank))
    # The right proof does not make this process a member of the host's session, nor a leader of its own.
    key = (site.directory / "host.key").read_bytes()
    rank.proof = hmac.new(key, b"j-1", hashlib.sha256).hexdigest()
    assert "not of the session" in await _refusal(site, local_pb2.LocalRequest(rank_register=rank))
    register.proof = hmac.new(key, b"j-2", hashlib.sha256).hexdigest()
    register.host_pid = host.process.pid
    assert "the peer is process" in await _refusal(site, local_pb2.LocalRequest(host_register=register))
    register.job_uid = "other"
    assert "is not <job_uid>-<serial>" in await _refusal(site, local_pb2.LocalRequest(host_register=register))
    unregistered = local_pb2.LocalRequest(rank_status=local_pb2.RankStatus(host_id="j-1"))
    assert "first frame must register" in await _refusal(site, unregistered)
    await agent.kill(signal.SIGTERM)
    counters = agent.logged("agent.stopping")[0]["counters"]
    assert counters["local_refused.wrong_proof"] == 2
    assert counters["local_refused.foreign_process"] == 2


@with_site
async def test_broken_frames_close_only_their_connection(site: Site) -> None:
    agent, session = await site.started()
    host = await site.host(session, "j-1")
    for data in (struct.pack(">I", (1 << 20) + 1) + b"x", struct.pack(">I", 4) + b"\xff" * 4, struct.pack(">I", 0)):
        for _ in range(2):
            assert await _raw(site, data) == b""
    await until(lambda: _kinds(agent) == {"oversized", "malformed"}, "the log names both kinds")
    host.status(types_pb2.RANK_STATE_STARTING)
    await until(session.seen("j-1", types_pb2.RANK_STATE_STARTING), "others are served")
    await agent.kill(signal.SIGTERM)
    counters = agent.logged("agent.stopping")[0]["counters"]
    assert (counters["local_closed.oversized"], counters["local_closed.malformed"]) == (2, 4)
    assert len(agent.logged("local.closed")) == 2, "logged once per kind"


def _kinds(agent: Agent) -> set[str]:
    return {entry["kind"] for entry in agent.logged("local.closed")}


@with_site
async def test_a_stale_socket_file_is_replaced(site: Site) -> None:
    agent, _ = await site.started()
    await agent.kill()
    assert site.socket.exists()
    _, session = await site.started()
    await site.host(session, "j-1")
