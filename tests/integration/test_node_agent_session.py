"""The node agent and its controller: hello, beats, reports, effects, orphans. Real processes, real gRPC."""

from __future__ import annotations

import asyncio
import json
import signal
from datetime import datetime

from phalanx.v1 import agent_pb2, types_pb2

from tests.fixtures.node_agent_harness import LIMIT_S, Site, alive, apply_generation, until, with_site


@with_site
async def test_hello_welcome_beats(site: Site) -> None:
    _, session = await site.started()
    hello = session.hello
    assert (hello.node, hello.address, hello.labels["rack"]) == ("n1", "127.0.0.1", "r1")
    assert hello.cpu_count > 0
    assert hello.memory_bytes > 0
    assert "fact/kernel" in hello.labels
    assert hello.snapshot.full
    assert [device.serial for device in hello.snapshot.accelerators] == ["sim-n1-0", "sim-n1-1"]
    await until(lambda: len(session.beats) >= 5, "five beats")
    assert [beat.sequence for beat in session.beats[:5]] == list(range(1, 6))
    assert all(0 <= beat.loop_lag_s < LIMIT_S for beat in session.beats), "seconds, not milliseconds"


@with_site
async def test_sigterm_closes_the_session_and_leaves_ranks_alone(site: Site) -> None:
    agent, session = await site.started()
    host = await site.host(session, "j-1")
    assert await agent.kill(signal.SIGTERM) == 0
    await until(lambda: session.ended_cleanly, "a clean close")
    assert alive(host.process.pid)
    assert alive(host.child)
    assert agent.logged("agent.stopped")
    assert not site.socket.exists()


@with_site
async def test_reconnects_after_a_clean_close_with_a_snapshot(site: Site) -> None:
    _, first = await site.started()
    await site.host(first, "j-1")
    first.close()
    second = await site.controller.session(2)
    assert second.hello.boot_id == first.hello.boot_id
    assert second.hello.snapshot.full
    assert [row.host_id for row in second.hello.snapshot.hosts] == ["j-1"]


@with_site
async def test_a_restarted_agent_has_a_higher_boot_id(site: Site) -> None:
    agent, first = await site.started()
    await agent.kill()
    _, second = await site.started()
    assert second.hello.boot_id > first.hello.boot_id
    assert second.hello.snapshot.full


@with_site
async def test_survives_a_restart_of_the_controller(site: Site) -> None:
    _, first = await site.started()
    await site.controller.stop()
    await until(lambda: first.ended, "the first session's end")
    await site.controller.start()
    second = await site.controller.session(2)
    await until(lambda: len(second.beats) > 2, "beats")


@with_site
async def test_unacknowledged_findings_are_sent_again(site: Site) -> None:
    _, first = await site.started()
    host = await site.host(first, "j-1")
    first.effect("e1", apply_generation=apply_generation(1, {0: "j-1"}))
    assignment = await host.assignment(1)
    host.status(types_pb2.RANK_STATE_RUNNING, 1, assignment.token, 0)
    await until(first.seen("j-1", types_pb2.RANK_STATE_RUNNING), "running")
    site.controller.acknowledge = False
    shard = agent_pb2.ShardWritten(job_uid="j", generation=1, step=20, rank=0, folder="/f", step_age_ms=7)
    host.send(shard=shard)
    await until(lambda: any(report.shards for report in first.reports), "the shard")
    assert not host.instructions("shard_ack")
    site.controller.acknowledge = True
    first.close()
    second = await site.controller.session(2)
    await until(lambda: any(report.shards for report in second.reports), "the shard again")
    again = next(report for report in second.reports if report.shards)
    assert again.sequence > max(report.sequence for report in first.reports)
    assert again.shards[0].step == 20
    assert again.shards[0].step_age_ms >= 7
    ack = (await until(lambda: host.instructions("shard_ack"), "the rank is told"))[0].shard_ack
    assert (ack.generation, ack.step) == (1, 20)


@with_site
async def test_snapshot_on_request(site: Site) -> None:
    _, session = await site.started()
    await site.host(session, "j-1")
    before = len(session.reports)
    session.send(snapshot_request=agent_pb2.SnapshotRequest())
    await until(lambda: any(report.full for report in session.reports[before:]), "a full report")


@with_site
async def test_snapshot_now_and_then(site: Site) -> None:
    _, session = await site.started("--snapshot-interval-s", "0.2")
    await until(lambda: sum(report.full for report in session.reports) >= 3, "two more full reports")


@with_site
async def test_effects_of_a_lower_epoch_are_refused(site: Site) -> None:
    site.controller.welcome.epoch = 7
    agent, session = await site.started()
    session.effect("old", epoch=6, inject_fault=agent_pb2.InjectFault(accelerator=0, code="X1"))
    refused = await until(lambda: session.result("old"), "a refusal")
    assert not refused.ok
    assert "epoch 6 is lower than 7" in refused.message
    assert not session.faults()
    # The same id from the rightful controller is carried out.
    session.results.clear()
    session.effect("old", epoch=7, inject_fault=agent_pb2.InjectFault(accelerator=0, code="X1"))
    assert (await until(lambda: session.result("old"), "the result")).ok
    await agent.kill(signal.SIGTERM)
    assert agent.logged("agent.stopping")[0]["counters"]["effects_of_lower_epoch"] == 1
    # The highest epoch outlives the agent: an older controller is not obeyed by the next one either.
    site.controller.welcome.epoch = 6
    later = site.agent()
    await until(lambda: len(site.controller.sessions) >= 3, "dialled and turned away twice")
    assert site.controller.sessions[-1].hello.highest_epoch == 7
    assert not site.controller.sessions[-1].beats
    await until(lambda: later.logged("session.ended"), "the reason is logged")
    assert later.logged("session.ended")[0]["reason"] == "the controller has epoch 6, this node already obeys 7"


@with_site
async def test_an_effect_id_has_one_outcome(site: Site) -> None:
    _, session = await site.started()
    session.effect("e1", inject_fault=agent_pb2.InjectFault(accelerator=1, code="X1"))
    assert (await until(lambda: session.result("e1"), "the first result")).ok
    session.effect("e1", inject_fault=agent_pb2.InjectFault(accelerator=99, code="X1"))
    await until(lambda: len(session.results) == 2, "the repeat's result")
    assert session.results[1].ok, "the repeat was judged anew"
    session.effect("e2", inject_fault=agent_pb2.InjectFault(accelerator=99, code="X1"))
    await until(lambda: session.result("e2"), "the third result")
    assert not session.results[2].ok
    assert "none with index 99" in session.results[2].message


@with_site
async def test_orphaned_ranks_are_stopped_when_the_grace_is_over(site: Site) -> None:
    site.controller.welcome.orphan_grace_ms = 3_000
    agent, session = await site.started()
    host = await site.host(session, "j-1")
    await site.controller.stop()
    await until(lambda: agent.logged("controller.away"), "the time left is shown")
    (away, *_) = agent.logged("controller.away")
    assert 0 <= away["orphan_grace_left_s"] <= 3.0
    await until(host.gone, "the rank is stopped")
    await until(lambda: agent.logged("ranks.stopped"), "that is logged")
    (orphaned,) = agent.logged("ranks.orphaned")
    assert orphaned["orphan_grace_ms"] == 3_000
    waited_s = (
        datetime.fromisoformat(orphaned["timestamp"]) - datetime.fromisoformat(away["timestamp"])
    ).total_seconds()
    assert waited_s > away["orphan_grace_left_s"] - 0.2, "not before its time"
    await site.controller.start()
    second = await site.controller.session(2)
    row = second.hello.snapshot.hosts[0]
    assert (row.state, row.exit.sender) == (types_pb2.RANK_STATE_EXITED, types_pb2.ExitInfo.SENDER_AGENT)
    assert "orphan_grace_ms 3000" in row.exit.message


@with_site
async def test_a_controller_in_time_saves_the_ranks(site: Site) -> None:
    site.controller.welcome.orphan_grace_ms = 8_000
    agent, first = await site.started()
    host = await site.host(first, "j-1")
    await site.controller.stop()
    await until(lambda: agent.logged("controller.away"), "away")
    await site.controller.start()
    second = await site.controller.session(2)
    until_s = asyncio.get_running_loop().time() + 8.5
    await until(lambda: asyncio.get_running_loop().time() > until_s, "longer than the grace")
    beats = len(second.beats)
    await until(lambda: len(second.beats) > beats, "the agent has seen that time pass too")
    assert not host.gone()
    assert not agent.logged("ranks.orphaned")


@with_site
async def test_a_second_agent_is_refused(site: Site) -> None:
    await site.started()
    second = site.agent()
    await until(lambda: second.process.poll() is not None, "the second agent ends")
    assert second.process.returncode == 2
    await until(lambda: second.logged("agent.failed"), "with a reason")
    assert "another node agent owns" in second.logged("agent.failed")[0]["reason"]


@with_site
async def test_logs_are_json_with_constant_events_and_none_per_beat(site: Site) -> None:
    agent, session = await site.started()
    await until(lambda: len(session.beats) > 12, "beats")
    await agent.kill(signal.SIGTERM)
    assert all({"event", "level", "timestamp", "node"} <= entry.keys() for entry in agent.events)
    assert len(agent.events) < 10, json.dumps(agent.events)
