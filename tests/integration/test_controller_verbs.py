"""Verbs of operators against a controller process: drain, restart, pins, cancellation in a hurry, and the audit of it all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from phalanx.v1 import audit_pb2, audit_pb2_grpc, checkpoint_pb2, event_pb2, fleet_pb2, job_pb2, types_pb2

from controlplane.core.audit import AuditEntry, Head, verify
from tests.fixtures.controller_peers import FakeAgent, FakeCell
from tests.fixtures.controller_process import Controller, refusal, until

RUNNING, CANCELLED = types_pb2.JOB_STATE_RUNNING, types_pb2.JOB_STATE_CANCELLED
DRAINING, DRAINED = types_pb2.NODE_SERVICE_DRAINING, types_pb2.NODE_SERVICE_OUT_OF_SERVICE


class Site:
    def __init__(self, folder: Path) -> None:
        self.controller = Controller(folder).start()
        self.agents = [FakeAgent(self.controller, f"node-{number}").connect() for number in (1, 2)]
        self.cell = FakeCell(self.controller, self.agents).connect()
        self.audit = audit_pb2_grpc.AuditServiceStub(self.controller.new_channel())

    def node(self, name: str) -> fleet_pb2.Node:
        return self.controller.fleet.GetNode(fleet_pb2.GetNodeRequest(name=name), timeout=30).node

    def pages(self, size: int) -> tuple[list[audit_pb2.AuditRecord], audit_pb2.ListAuditResponse]:
        found: list[audit_pb2.AuditRecord] = []
        while True:
            after = found[-1].number if found else 0
            answer = self.audit.ListAudit(audit_pb2.ListAuditRequest(after_number=after, limit=size), timeout=30)
            found.extend(answer.records)
            if len(answer.records) < size:
                return found, answer


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("verbs"))
    yield site
    site.controller.close()


def link(record: audit_pb2.AuditRecord) -> AuditEntry:
    return AuditEntry(
        record.number, record.at_ns, record.actor, record.role, record.peer, record.action, record.subject, record.before,
        record.after, record.request_id, record.previous, record.digest,
    )  # fmt: skip


def test_a_drained_node_is_empty_and_the_job_goes_on(site: Site) -> None:
    controller = site.controller
    controller.submit("drain-1", name="mover", ranks=2)
    home = controller.until_state(RUNNING, "mover").ranks[0].node
    request = fleet_pb2.DrainNodeRequest(request_id="drain-2", name=home, reason="firmware")
    answer = controller.fleet.DrainNode(request, timeout=30)
    assert list(answer.jobs) == ["mover"]
    until(lambda: site.node(home).service == DRAINED, "the node is drained")
    job = controller.until_state(RUNNING, "mover")
    assert {rank.node for rank in job.ranks} == {"node-1", "node-2"} - {home}
    assert job.recoveries[-1].rung == "RESTART_JOB", "both ranks were there"
    assert job.recoveries[-1].cause in (
        f"drain of {home}",  # where no step was told yet there is nothing to save
        f"drain of {home}, not saved: these ranks do not save",
    )
    assert job.recoveries[-1].ledger == ""
    assert not any(job.restarts.values())
    told = controller.events.Explain(event_pb2.ExplainRequest(kind=event_pb2.SUBJECT_KIND_NODE, name=home), timeout=30)
    assert any("DrainNode" in entry.message for entry in told.chain)
    assert any("is drained" in entry.message for entry in told.chain)
    assert told.decisions[-1].verdict.startswith("mover: "), "the recovery that the drain asked for"
    assert list(told.decisions[-1].rungs)
    controller.fleet.UncordonNode(fleet_pb2.UncordonNodeRequest(request_id="drain-3", name=home), timeout=30)
    assert site.node(home).service == types_pb2.NODE_SERVICE_IN_SERVICE
    controller.jobs.CancelJob(job_pb2.CancelJobRequest(request_id="drain-4", name="mover"), timeout=30)
    controller.until_state(CANCELLED, "mover")


def test_a_restart_costs_a_generation_and_no_charge(site: Site) -> None:
    controller = site.controller
    controller.submit("restart-1", name="again", ranks=2)
    before = controller.until_state(RUNNING, "again")
    request = job_pb2.RestartJobRequest(request_id="restart-2", name="again", reason="new data")
    controller.jobs.RestartJob(request, timeout=30)
    until(lambda: controller.job("again").generation == before.generation + 1, "the next generation")
    after = controller.until_state(RUNNING, "again")
    assert not {rank.host_id for rank in after.ranks} & {rank.host_id for rank in before.ranks}
    assert (after.recoveries[-1].rung, after.recoveries[-1].ledger) == ("RESTART_JOB", "")
    assert not any(after.restarts.values())
    with pytest.raises(grpc.RpcError) as error:
        controller.jobs.CancelJob(job_pb2.CancelJobRequest(request_id="restart-2", name="again"), timeout=30)
    assert refusal(error.value) == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_ID_REUSED")
    for request_id, grace_ms in (("restart-3", 60_000), ("restart-4", 1_000)):
        cancel = job_pb2.CancelJobRequest(request_id=request_id, name="again", grace_ms=grace_ms)
        try:
            controller.jobs.CancelJob(cancel, timeout=30)
        except grpc.RpcError as late:  # its processes obeyed the first one already
            if (request_id, refusal(late)[1]) != ("restart-4", "JOB_ENDED"):
                raise
    controller.until_state(CANCELLED, "again")
    graces = [effect.fence_hosts.grace_ms for agent in site.agents for effect in agent.effects]
    assert 60_000 in graces


def test_pins_have_owners(site: Site) -> None:
    missing = checkpoint_pb2.PinCheckpointRequest(request_id="pin-1", job="nobody", checkpoint_id="x", reason="keep")
    with pytest.raises(grpc.RpcError) as error:
        site.controller.checkpoints.PinCheckpoint(missing, timeout=30)
    assert refusal(error.value) == (grpc.StatusCode.NOT_FOUND, "NO_SUCH_JOB")


def test_doubt_in_checkpoints_needs_a_job_that_has_some(site: Site) -> None:
    poison = checkpoint_pb2.PoisonCheckpointRequest(
        request_id="poison-1", job="nobody", checkpoint_id="x", reason="odd"
    )
    with pytest.raises(grpc.RpcError) as error:
        site.controller.checkpoints.PoisonCheckpoint(poison, timeout=30)
    assert refusal(error.value) == (grpc.StatusCode.NOT_FOUND, "NO_SUCH_JOB")
    clear = checkpoint_pb2.ClearCheckpointsRequest(request_id="clear-1", job="nobody", reason="fine")
    with pytest.raises(grpc.RpcError) as error:
        site.controller.checkpoints.ClearCheckpoints(clear, timeout=30)
    assert refusal(error.value) == (grpc.StatusCode.NOT_FOUND, "NO_SUCH_JOB")


def test_every_command_is_in_an_unbroken_chain_that_can_be_paged(site: Site) -> None:
    cordon = fleet_pb2.CordonNodeRequest(request_id="audit-1", name="node-1", reason="look")
    for _ in range(2):
        site.controller.fleet.CordonNode(cordon, timeout=30)
    site.controller.fleet.UncordonNode(fleet_pb2.UncordonNodeRequest(request_id="audit-2", name="node-1"), timeout=30)
    with pytest.raises(grpc.RpcError):
        site.controller.fleet.UncordonNode(
            fleet_pb2.UncordonNodeRequest(request_id="audit-3", name="node-1"), timeout=30
        )
    records, last = site.pages(3)
    assert records == site.pages(1_000)[0]
    assert verify([link(record) for record in records], head=Head(last.newest_number, last.newest_digest)) is None
    assert (last.oldest_number, records[0].number) == (1, 1)
    ids = [record.request_id for record in records]
    assert ids[-2:] == ["audit-1", "audit-2"], "a repeat and a refusal leave no record"
    assert records[-2].actor == "local"
    assert records[-2].peer
    assert records[-2].before == '{"cordons":{}}'
    asked = audit_pb2.ListAuditRequest(subject="node/node-1", actor="local")
    only = site.audit.ListAudit(asked, timeout=30).records
    assert {record.action for record in only} >= {"CordonNode", "UncordonNode"}
    assert all(record.subject == "node/node-1" for record in only)


def test_the_chain_goes_on_after_a_restart(site: Site) -> None:
    before, _ = site.pages(1_000)
    site.controller.kill()
    site.controller.start()
    site.audit = audit_pb2_grpc.AuditServiceStub(site.controller.new_channel())
    for agent in site.agents:
        agent.connect()
    cordon = fleet_pb2.CordonNodeRequest(request_id="after-1", name="node-2", owner="ann", reason="look")
    site.controller.fleet.CordonNode(cordon, timeout=30)
    records, last = site.pages(1_000)
    assert records[: len(before)] == before
    assert records[-1].number == before[-1].number + 1
    assert verify([link(record) for record in records], head=Head(last.newest_number, last.newest_digest)) is None
