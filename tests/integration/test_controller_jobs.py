"""A controller as a process, fake agents and a fake cell over real streams: the life of a job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from phalanx.v1 import agent_pb2, checkpoint_pb2, event_pb2, job_pb2, types_pb2

from tests.fixtures.controller_peers import FakeAgent, FakeCell
from tests.fixtures.controller_process import Controller, refusal, spec_message, until, violations

RUNNING, SUCCEEDED = types_pb2.JOB_STATE_RUNNING, types_pb2.JOB_STATE_SUCCEEDED


class Site:
    """A controller with two nodes of two accelerators each, and their cell."""

    def __init__(self, folder: Path, **flags: object) -> None:
        self.controller = Controller(folder, **flags).start()
        self.agents = [FakeAgent(self.controller, f"node-{number}").connect() for number in (1, 2)]
        self.cell = FakeCell(self.controller, self.agents).connect()
        self.by_name = {agent.node: agent for agent in self.agents}

    def run(self, request_id: str = "submit-1", **changes: object) -> job_pb2.Job:
        self.controller.submit(request_id, **changes)
        return self.controller.until_state(RUNNING, str(changes.get("name", "demo")))

    def holder(self, rank: int, name: str = "demo") -> tuple[FakeAgent, str]:
        row = self.controller.job(name).ranks[rank]
        return self.by_name[row.node], row.host_id


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("controller"))
    yield site
    site.controller.close()


def messages(site: Site, **request: object) -> list[str]:
    answer = site.controller.events.ListEvents(event_pb2.ListEventsRequest(**request), timeout=30)  # type: ignore[arg-type]
    return [event.message for event in answer.events]


def why(site: Site, kind: event_pb2.SubjectKind.ValueType, name: str) -> event_pb2.ExplainResponse:
    return site.controller.events.Explain(event_pb2.ExplainRequest(kind=kind, name=name), timeout=30)


def history(site: Site, *types: str) -> dict[int, str]:
    """Type by revision of the records of some types."""
    pages = site.controller.events.ReadHistory(event_pb2.ReadHistoryRequest(types=types), timeout=30)
    return {record.revision: record.type for page in pages for record in page.records}


def test_history_is_told_but_not_who_may_join(site: Site) -> None:
    assert set(history(site, "ControllerStarted").values()) == {"ControllerStarted"}
    for types in ((), ("Audited",), ("RanksLost", "TokenCreated"), ("Nonsense",)):
        with pytest.raises(grpc.RpcError) as error:
            history(site, *types)
        assert refusal(error.value) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


def test_rules_that_can_never_match_are_remarked_on(site: Site) -> None:
    spec = spec_message(name="remarked")
    rule = spec.restart_policy.job_rules.add(action=types_pb2.RULE_ACTION_FAIL)
    rule.match.exit_codes.append(42)
    rule.match.reasons.append("nodeDead")
    answer = site.controller.jobs.SubmitJob(job_pb2.SubmitJobRequest(spec=spec, dry_run=True), timeout=30)
    (warning,) = answer.warnings
    assert (warning.path, warning.reason[:15]) == ("spec.restartPolicy.jobRules[0].match", "can never match")
    rule.match.message = "("
    with pytest.raises(grpc.RpcError) as error:
        site.controller.jobs.SubmitJob(job_pb2.SubmitJobRequest(spec=spec, dry_run=True), timeout=30)
    assert [one.path for one in violations(error.value)] == ["spec.restartPolicy.jobRules[0].match.message"]


def test_a_job_runs_loses_a_rank_and_succeeds(site: Site) -> None:
    controller = site.controller
    first = controller.submit("life-1", name="life")
    assert [rank.rank for rank in first.placement] == [0, 1]
    job = controller.until_state(RUNNING, "life")
    assert job.generation == 1
    order = next(e.apply_generation for e in site.by_name[job.ranks[0].node].effects if e.HasField("apply_generation"))
    assert order.base_generation == 0
    assert [row.rank for row in order.rows] == [0, 1]
    assert order.store_address == "127.0.0.1:1234"
    assert order.checkpoint_folder == f"{controller.folder}/checkpoints/{job.uid}/g1"
    until(lambda: controller.job("life").step >= 1, "progress arrives with the beats")
    assert controller.job("life").loss == 0.5

    agent, host = site.holder(1, "life")
    agent.end_host(host, signal=9, sender=types_pb2.ExitInfo.SENDER_UNKNOWN)
    until(lambda: controller.job("life").generation == 2, "a new generation")
    job = controller.until_state(RUNNING, "life")
    assert [item.rung for item in job.recoveries] == ["RESTART_RANK"]
    assert job.recoveries[0].complete
    assert job.recoveries[0].total_s == pytest.approx(sum(job.recoveries[0].phases_s.values()))
    assert job.restarts["infrastructure"] == 1

    assert f"rank 1 of life was killed by signal 9 on {agent.node}" in messages(site, job="life")
    explained = why(site, event_pb2.SUBJECT_KIND_JOB, "life")
    assert "life is RUNNING in generation 2" in explained.summary
    assert "RESTART_RANK because rank 1 was killed by signal 9" in explained.summary
    assert {"RanksLost", "RecoveryDecided", "GenerationStarted"} <= {event.type for event in explained.chain}
    assert "killed by signal 9" in why(site, event_pb2.SUBJECT_KIND_RANK, "life/1").chain[-2].message
    (decision,) = explained.decisions
    assert decision.rules[-1] == "the implicit last rule: matches, the ladder decides"
    assert decision.budgets[1].startswith("infrastructure: 0 of 10 used")
    stored = history(site, "HostEnded", "RanksLost")
    assert {stored[revision] for revision in decision.evidence_ids} == {"HostEnded", "RanksLost"}
    assert explained.changes == [], "it runs"

    until(lambda: controller.job("life").step >= 1, "the new generation makes steps")
    for rank in (0, 1):
        agent, host = site.holder(rank, "life")
        agent.end_host(host, final=True)
    job = controller.until_state(SUCCEEDED, "life")
    assert dict(job.result) == {"answer": "42"}
    assert job.step >= 1, "the last step is still shown"
    assert sum(job.ledger_s.values()) > 0


def test_a_partial_table_goes_to_nodes_that_have_the_former_one(site: Site) -> None:
    job = site.run("patch-1", name="patch", ranks=3)
    seen = {name: len(agent.effects) for name, agent in site.by_name.items()}
    victim = next(rank for rank in job.ranks if [r.node for r in job.ranks].count(rank.node) == 1)
    site.by_name[victim.node].end_host(victim.host_id, signal=9)
    until(lambda: site.controller.job("patch").generation == 2, "a new generation")
    other = next(agent for name, agent in site.by_name.items() if name != victim.node)
    order = until(
        lambda: next(
            (e.apply_generation for e in other.effects[seen[other.node] :] if e.HasField("apply_generation")), None
        ),
        "the other node hears of it",
    )
    assert (order.generation, order.base_generation) == (2, 1)
    assert [row.rank for row in order.rows] == [victim.rank]
    cancel(site, "patch")


def test_a_node_that_cannot_apply_a_patch_gets_the_whole_table(site: Site) -> None:
    job = site.run("whole-1", name="whole", ranks=3)
    victim = next(rank for rank in job.ranks if [r.node for r in job.ranks].count(rank.node) == 1)
    other = next(agent for name, agent in site.by_name.items() if name != victim.node)

    def ordered() -> list[agent_pb2.AgentEffect]:
        orders = [e for e in other.effects if e.HasField("apply_generation")]
        return [e for e in orders if (e.apply_generation.job_name, e.apply_generation.generation) == ("whole", 2)]

    other.auto = False
    site.by_name[victim.node].end_host(victim.host_id, signal=9)
    patch = until(lambda: next(iter(ordered()), None), "the patch")
    assert patch.apply_generation.base_generation == 1
    assert other.stream is not None
    refused = agent_pb2.EffectResult(effect_id=patch.effect_id, ok=False, message="need full table")
    other.stream.send(agent_pb2.AgentMessage(effect_result=refused))
    whole = until(lambda: next(iter(ordered()[1:]), None), "the whole table")
    assert (whole.apply_generation.base_generation, len(whole.apply_generation.rows)) == (0, 3)
    assert whole.effect_id != patch.effect_id
    other.auto = True
    other.carry_out(whole)
    site.controller.until_state(RUNNING, "whole")
    cancel(site, "whole")


def test_an_effect_that_its_job_left_behind_is_not_sent_again(site: Site) -> None:
    for agent in site.agents:
        agent.auto = False
    site.controller.submit("behind-1", name="behind", ranks=3)

    def ordered(agent: FakeAgent) -> list[int]:
        orders = [e.apply_generation for e in agent.effects if e.HasField("apply_generation")]
        return [order.generation for order in orders if order.job_name == "behind"]

    until(lambda: all(1 in ordered(agent) for agent in site.agents), "both are told of generation 1")
    job = site.controller.job("behind")
    victim = next(rank for rank in job.ranks if [r.node for r in job.ranks].count(rank.node) == 1)
    lively = site.by_name[victim.node]
    lively.auto = True
    for effect in list(lively.effects):
        lively.carry_out(effect)
    lively.end_host(victim.host_id, signal=9)
    until(lambda: site.controller.job("behind").generation == 2, "a new generation")
    quiet = next(agent for agent in site.agents if agent is not lively)
    quiet.auto = True
    quiet.effects.clear()
    quiet.stream.reset()
    quiet.connect()
    site.controller.until_state(RUNNING, "behind")
    assert set(ordered(quiet)) == {2}
    cancel(site, "behind")


def test_a_cell_that_does_not_answer_refuses_the_job(tmp_path: Path) -> None:
    site = Site(tmp_path, preflight_ms=1_000)
    site.cell.auto_preflight = False
    try:
        with pytest.raises(grpc.RpcError) as late:
            site.controller.submit("late-1", name="late")
    finally:
        site.controller.close()
    assert refusal(late.value) == (grpc.StatusCode.DEADLINE_EXCEEDED, "PREFLIGHT_TIMED_OUT")


def test_events_are_filtered_by_job_and_node(site: Site) -> None:
    of_node = messages(site, node="node-1")
    assert any("node-1 registered with 2 accelerators" in text for text in of_node)
    assert any("joined cell cell-1" in text for text in of_node), "a record about several nodes"
    assert not any("node-2 registered" in text for text in of_node)
    assert len(messages(site, limit=3)) == 3
    answer = site.controller.events.ListEvents(event_pb2.ListEventsRequest(), timeout=30)
    assert [event.revision for event in answer.events] == sorted(event.revision for event in answer.events)
    assert "node-1 takes new work" in why(site, event_pb2.SUBJECT_KIND_NODE, "node-1").summary
    with pytest.raises(grpc.RpcError) as error:
        why(site, event_pb2.SUBJECT_KIND_UNSPECIFIED, "node-1")
    assert refusal(error.value) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


@pytest.mark.parametrize("after", [1_000_000, 2**63, 2**64 - 1])
def test_a_future_revision_is_refused(site: Site, after: int) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        messages(site, after_revision=after)
    assert refusal(caught.value) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_IN_FUTURE")


def test_health_and_reflection_answer(site: Site) -> None:
    health = health_pb2_grpc.HealthStub(site.controller.channel)
    answer = health.Check(health_pb2.HealthCheckRequest(service="phalanx.v1.JobService"), timeout=30)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    listed = reflection_pb2_grpc.ServerReflectionStub(site.controller.channel).ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    )
    names = {service.name for service in next(listed).list_services_response.service}
    assert {"phalanx.v1.AgentService", "phalanx.v1.EventService", "grpc.health.v1.Health"} <= names


def test_repeats_of_a_request_get_the_first_answer(site: Site) -> None:
    first = site.controller.submit("repeat-1", name="repeat")
    again = site.controller.submit("repeat-1", name="repeat")
    assert (again.uid, list(again.placement)) == (first.uid, list(first.placement))
    with pytest.raises(grpc.RpcError) as other:
        site.controller.submit("repeat-2", name="repeat")
    assert refusal(other.value) == (grpc.StatusCode.ALREADY_EXISTS, "JOB_EXISTS")
    cancel(site, "repeat")


def test_what_is_wrong_with_a_submission_is_named_field_by_field(site: Site) -> None:
    stub = site.controller.jobs
    with pytest.raises(grpc.RpcError) as missing:
        stub.SubmitJob(job_pb2.SubmitJobRequest(spec=spec_message()), timeout=30)
    assert refusal(missing.value) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert [v.path for v in violations(missing.value)] == ["request_id"]

    broken = spec_message(name="broken")
    broken.parallel.ep = 3
    broken.ClearField("spares")
    with pytest.raises(grpc.RpcError) as sections:
        stub.SubmitJob(job_pb2.SubmitJobRequest(request_id="b", spec=broken), timeout=30)
    assert [v.path for v in violations(sections.value)] == ["spec.spares"]
    broken.spares.SetInParent()
    with pytest.raises(grpc.RpcError) as rules:
        stub.SubmitJob(job_pb2.SubmitJobRequest(request_id="b", spec=broken), timeout=30)
    assert refusal(rules.value) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SPEC")
    assert [v.path for v in violations(rules.value)] == ["spec.parallel.ep"]

    site.cell.violations = [types_pb2.FieldViolation(path="spec.workload.module", reason="cannot be imported", fix="x")]
    with pytest.raises(grpc.RpcError) as cell:
        site.controller.submit("p", name="preflight")
    site.cell.violations = []
    assert refusal(cell.value) == (grpc.StatusCode.INVALID_ARGUMENT, "PREFLIGHT_FAILED")
    assert [v.path for v in violations(cell.value)] == ["spec.workload.module"]
    with pytest.raises(grpc.RpcError) as nothing:
        site.controller.job("preflight")
    assert refusal(nothing.value) == (grpc.StatusCode.NOT_FOUND, "NO_SUCH_JOB")


def test_a_dry_run_stores_nothing(site: Site) -> None:
    request = job_pb2.SubmitJobRequest(spec=spec_message(name="dry"), dry_run=True)
    answer = site.controller.jobs.SubmitJob(request, timeout=30)
    assert len(answer.placement) == 2
    with pytest.raises(grpc.RpcError):
        site.controller.job("dry")


def test_checkpoints_are_committed_and_restored_from(site: Site) -> None:
    job = site.run("ckpt-1", name="ckpt")
    folder = f"{job.checkpoint_folder}/g1/step-10"
    for row in job.ranks:
        file = types_pb2.ShardFile(path=f"part-{row.rank}/data", bytes=7, sha256="0" * 64)
        shard = agent_pb2.ShardWritten(
            job_uid=job.uid, generation=1, step=10, rank=row.rank, folder=folder, files=[file], save_stall_s=0.01
        )
        agent = site.by_name[row.node]
        sequence = agent.report(shards=[shard])
        until(lambda a=agent, s=sequence: a.acked >= s, "the report is acknowledged")
    listed = site.controller.checkpoints.ListCheckpoints(
        checkpoint_pb2.ListCheckpointsRequest(job="ckpt"), timeout=30
    ).checkpoints
    assert [(c.step, c.files, c.bytes) for c in listed] == [(10, 2, 14)]
    agent, host = site.holder(0, "ckpt")
    agent.end_host(host, signal=9)
    until(lambda: site.controller.job("ckpt").generation == 2, "a new generation")
    job = site.controller.until_state(RUNNING, "ckpt")
    assert job.recoveries[-1].restore_step == 10
    order = [e.apply_generation for e in agent.effects if e.HasField("apply_generation")][-1]
    assert (order.restore.step, order.restore.folder, len(order.restore.files)) == (10, folder, 2)
    explained = why(site, event_pb2.SUBJECT_KIND_CHECKPOINT, listed[0].id)
    assert explained.decisions[-1].verdict == "restored: generation 2 started from it"
    assert "generation 2 of ckpt started from it" in explained.summary
    cancel(site, "ckpt")


def test_a_watch_tells_changes_and_ends_with_the_job(site: Site) -> None:
    site.run("watch-1", name="watch")
    stream = site.controller.jobs.WatchJob(job_pb2.WatchJobRequest(name="watch"), timeout=30)
    first = next(stream)
    assert first.job.state == RUNNING
    cancel(site, "watch", wait=False)
    seen = [response.job for response in stream]
    assert seen[-1].state == types_pb2.JOB_STATE_CANCELLED
    told = [(job.state, job.blocker, job.step) for job in seen]
    assert len(told) < 20


def test_logs_come_from_the_node_of_the_rank_and_stop_with_the_reader(site: Site) -> None:
    site.run("logs-1", name="logs")
    agent, host = site.holder(0, "logs")
    request = job_pb2.ReadLogsRequest(name="logs", rank=0)
    chunks = list(site.controller.jobs.ReadLogs(request, timeout=30))
    assert b"".join(chunk.data for chunk in chunks) == b"hello from a rank\n"
    assert {chunk.host_id for chunk in chunks} == {host}

    request.follow = True
    stream = site.controller.jobs.ReadLogs(request, timeout=30)
    next(chunk for chunk in stream if chunk.data == b"more\n")
    stream.cancel()
    until(lambda: getattr(agent, "log_ended", False) or hasattr(agent, "log_error"), "the agent's stream ends")
    cancel(site, "logs")
    ended = list(site.controller.jobs.ReadLogs(job_pb2.ReadLogsRequest(name="logs", rank=0), timeout=30))
    assert ended[0].host_id == host, "the log of an ended process"
    with pytest.raises(grpc.RpcError) as missing:
        list(site.controller.jobs.ReadLogs(job_pb2.ReadLogsRequest(name="logs", rank=7), timeout=30))
    assert refusal(missing.value) == (grpc.StatusCode.NOT_FOUND, "NO_SUCH_RANK")


class Written(dict[str, bytes]):
    """Logs of which every process has one."""

    def __contains__(self, host_id: object) -> bool:
        return True

    def __missing__(self, host_id: str) -> bytes:
        return f"{host_id} begins\n".encode()


def read(site: Site, **request: object) -> bytes:
    chunks = site.controller.jobs.ReadLogs(job_pb2.ReadLogsRequest(**request), timeout=30)  # type: ignore[arg-type]
    return b"".join(chunk.data for chunk in chunks)


def test_a_follow_goes_on_with_the_ranks_next_process_and_without_gap_or_repeat(site: Site) -> None:
    site.run("follow-1", name="follow")
    agent, first = site.holder(0, "follow")
    for one in site.agents:
        one.written = Written()
    agent.written[first] = b"one\n"
    stream = site.controller.jobs.ReadLogs(job_pb2.ReadLogsRequest(name="follow", rank=0, follow=True), timeout=60)
    heard = iter(chunk for chunk in stream if chunk.data)
    assert next(heard).data == b"one\n"
    agent.cut_logs()
    agent.written[first] += b"two\n"
    cut = next(heard)
    assert (cut.data, cut.host_id, cut.end_offset) == (b"two\n", first, 8)
    agent.end_host(first, signal=9, sender=types_pb2.ExitInfo.SENDER_UNKNOWN)
    following = next(heard)
    assert following.host_id != first
    assert following.data == f"{following.host_id} begins\n".encode()

    assert read(site, name="follow", rank=0, previous=True) == b"one\ntwo\n"
    refused = {"FOLLOWED": {"rank": 0, "follow": True}, "NO": {"rank": 1}}
    for reason, request in refused.items():
        with pytest.raises(grpc.RpcError) as error:
            read(site, name="follow", previous=True, **request)
        assert reason in refusal(error.value)[1]
    after = following.host_id
    assert read(site, name="follow", rank=0, after_host_id=after, after_offset=4) == following.data[4:]
    other = read(site, name="follow", rank=0, after_host_id=first, after_offset=4)
    assert other == following.data, "another process than the reader had: from its first byte"

    cancel(site, "follow")
    assert list(heard) == [], "a follow ends with the job"
    for one in site.agents:
        one.written = {}


def test_metrics_and_site_agree_with_the_state(site: Site) -> None:
    shown = site.controller.metrics()
    assert 'phalanx_nodes{liveness="ALIVE"} 2.0' in shown
    assert "phalanx_epoch 1.0" in shown
    assert 'phalanx_refused_messages_total{reason="JOB_EXISTS"}' in shown
    answer = site.controller.site()
    assert (answer.nodes, answer.accelerators, answer.journal_state) == (2, 4, "ok")
    assert sum(answer.ledger_s.values()) == pytest.approx(answer.accelerators * answer.wall_s, rel=0.2)


def cancel(site: Site, name: str, *, wait: bool = True) -> None:
    request = job_pb2.CancelJobRequest(request_id=f"cancel-{name}", name=name, reason="test")
    site.controller.jobs.CancelJob(request, timeout=30)
    if wait:
        site.controller.until_state(types_pb2.JOB_STATE_CANCELLED, name)
