"""Agents that were let in and lie: about other nodes' logs, effects, ranks and files, and about nodes they do not speak for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from phalanx.v1 import agent_pb2, agent_pb2_grpc, cell_pb2, cell_pb2_grpc, checkpoint_pb2, event_pb2, job_pb2, types_pb2

from controlplane.core.identity import Role
from tests.fixtures.controller_peers import FakeAgent, FakeCell, Stream
from tests.fixtures.controller_process import refusal, until
from tests.fixtures.secure_site import SecureController, Shown, signing_request
from tests.integration.test_identity import DENIED, UNAUTHENTICATED, As, ended

NODES = ("node-1", "node-2")


class Site:
    """Two nodes and their cell over TLS, and node-3, which has no rank and lies."""

    def __init__(self, folder: Path) -> None:
        self.controller = SecureController(folder).start()
        self.agents = {name: self.agent(name).connect() for name in NODES}
        self.liar = self.agent("node-3", accelerators=0).connect()
        shown = self.controller.shown("cell", "cell-1", speaks_for=("node-[1-2]",))
        self.cell = FakeCell(As(self.controller, shown), [*self.agents.values()]).connect()  # type: ignore[arg-type]

    def agent(self, name: str, **options: int) -> FakeAgent:
        shown = self.controller.shown("node", name)
        return FakeAgent(As(self.controller, shown), name, **options)  # type: ignore[arg-type]

    def run(self, name: str) -> job_pb2.Job:
        self.controller.submit(f"submit-{name}", name=name)
        return self.controller.until_state(types_pb2.JOB_STATE_RUNNING, name)

    def shard(self, by: FakeAgent, job: job_pb2.Job, rank: int, folder: str, path: str = "part") -> None:
        """Report a shard of step 10 and wait until the controller has dealt with it."""
        file = types_pb2.ShardFile(path=path, bytes=7, sha256="0" * 64)
        row = agent_pb2.ShardWritten(job_uid=job.uid, generation=1, step=10, rank=rank, folder=folder, files=[file])
        sequence = by.report(shards=[row])
        until(lambda: by.acked >= sequence, "the report is acknowledged")

    def checkpoints(self, name: str) -> list[checkpoint_pb2.Checkpoint]:
        request = checkpoint_pb2.ListCheckpointsRequest(job=name)
        return list(self.controller.checkpoints.ListCheckpoints(request, timeout=30).checkpoints)


def audited(controller: SecureController) -> set[int]:
    """Revisions of the records that a command or a token leaves: others come at any time."""
    found = controller.events.ListEvents(event_pb2.ListEventsRequest(limit=1_000), timeout=30).events
    return {event.revision for event in found if event.type in {"Audited", "TokenCreated", "TokenSpent"}}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    one = Site(tmp_path)
    yield one
    one.controller.close()


def test_the_log_of_another_node_is_not_taken(site: Site) -> None:
    """The liar has the id of the stream: even then only the node that was asked may answer."""
    site.controller.submit("logs-1", name="logs")
    job = site.controller.until_state(types_pb2.JOB_STATE_RUNNING, "logs")
    owner = site.agents[job.ranks[0].node]
    pushed = owner._push_log
    owner._push_log = lambda order: None  # type: ignore[method-assign] # the owner is slow, the liar is quick
    reader = site.controller.jobs.ReadLogs(job_pb2.ReadLogsRequest(name="logs", rank=0), timeout=30)
    until(lambda: owner.orders, "the owner is asked for the log")
    order = owner.orders[0]
    stub = agent_pb2_grpc.AgentServiceStub(site.controller.channel_as(site.controller.shown("node", "node-3")))
    chunk = agent_pb2.PushLogRequest(stream_id=order.stream_id, data=b"a lie", host_id=order.host_id)
    with pytest.raises(grpc.RpcError) as caught:
        stub.PushLog(iter([chunk]), timeout=30)
    assert refusal(caught.value) == (DENIED, "NOT_YOUR_NAME")
    pushed(order)
    read = b"".join(part.data for part in reader)
    assert read
    assert b"a lie" not in read


def test_the_outcome_of_another_nodes_effect_is_refused(site: Site) -> None:
    job = site.run("effects")
    agent = site.agents[job.ranks[0].node]
    agent.auto = False
    request = job_pb2.CancelJobRequest(request_id="cancel-1", name="effects")
    site.controller.jobs.CancelJob(request, timeout=30)
    until(lambda: any(e.HasField("fence_hosts") for e in agent.effects), "its processes are fenced")
    fence = next(e for e in agent.effects if e.HasField("fence_hosts"))
    result = agent_pb2.EffectResult(effect_id=fence.effect_id, ok=True)
    assert site.liar.stream is not None
    site.liar.stream.send(agent_pb2.AgentMessage(effect_result=result))
    assert ended(site.liar.stream) == (DENIED, "NOT_YOUR_NAME")
    assert site.controller.job("effects").state != types_pb2.JOB_STATE_CANCELLED
    agent.carry_out(fence)
    site.controller.until_state(types_pb2.JOB_STATE_CANCELLED, "effects")


def test_a_node_does_not_end_the_processes_of_another(site: Site) -> None:
    job = site.run("exits")
    host = site.agents[job.ranks[0].node].host_of(0)
    site.liar.hosts[host] = agent_pb2.HostStatus(host_id=host, job_uid=job.uid, rank=0, generation=1)
    site.liar.end_host(host, signal=9)
    site.shard(site.liar, job, 0, f"{job.checkpoint_folder}/g1/step-10")  # acknowledged after the lie
    after = site.controller.job("exits")
    assert (after.state, after.generation) == (types_pb2.JOB_STATE_RUNNING, 1)
    assert not site.checkpoints("exits"), "nor tells the liar of checkpoints of a job that it has no part in"


def test_a_checkpoint_lies_where_it_is_called_and_is_told_by_the_node_of_its_rank(site: Site) -> None:
    """Other nodes read and delete what a shard's folder names: it is never taken from elsewhere."""
    job = site.run("folders")
    own = f"{job.checkpoint_folder}/g1/step-10"
    holders = [site.agents[row.node] for row in job.ranks]
    elsewhere = ("/", "/etc", "/srv/other-job/g1/step-10", f"{job.checkpoint_folder}/g2/step-10", own.lstrip("/"))
    for folder in (*elsewhere, f"{job.checkpoint_folder}/../{job.uid}/g1/step-10", f"{own}/", f"{own}/.."):
        site.shard(holders[0], job, 0, folder)
    for path in ("/etc/passwd", "../../other/g1/step-1/part", "a//b", ""):
        site.shard(holders[0], job, 0, own, path)
    assert not site.checkpoints("folders")
    if holders[0] is not holders[1]:
        site.shard(holders[1], job, 0, own)
        assert not site.checkpoints("folders"), "rank 0 is on another node"
    for rank, holder in enumerate(holders):
        site.shard(holder, job, rank, own)
    assert [(one.step, one.files) for one in site.checkpoints("folders")] == [(10, 2)]


def test_who_has_no_part_in_a_job_does_not_condemn_its_checkpoints(site: Site) -> None:
    job = site.run("poison")
    for rank, row in enumerate(job.ranks):
        site.shard(site.agents[row.node], job, rank, f"{job.checkpoint_folder}/g1/step-10")
    (checkpoint,) = site.checkpoints("poison")
    checked = agent_pb2.CheckpointChecked(job_uid=job.uid, checkpoint_id=checkpoint.id, ok=False, reason="a lie")
    assert site.liar.stream is not None
    site.liar.stream.send(agent_pb2.AgentMessage(report=agent_pb2.Report(sequence=1_000, checked=[checked])))
    until(lambda: site.liar.acked >= 1_000, "the lie is acknowledged")
    (after,) = site.checkpoints("poison")
    assert after.state != types_pb2.CHECKPOINT_STATE_POISONED


def test_a_cell_takes_no_node_of_another_cell_away(site: Site) -> None:
    """A hello is the whole membership, of the nodes that the cell speaks for: not of the site."""
    site.run("cells")
    shown = site.controller.shown("cell", "cell-2", speaks_for=("node-3",))
    stub = cell_pb2_grpc.CellServiceStub(site.controller.channel_as(shown))
    rows = [cell_pb2.CellNode(node="node-3", alive=True)]
    dead = cell_pb2.CellActor(
        host_id=site.agents[NODES[0]].living()[0] if site.agents[NODES[0]].living() else site.agents[NODES[1]].living()[0],
        state=cell_pb2.ACTOR_STATE_DEAD, reason="a lie",
    )  # fmt: skip
    snapshot = cell_pb2.CellReport(sequence=1, full=True, nodes=rows, actors=[dead])
    hello = cell_pb2.CellHello(cell="cell-2", boot_id="1", agent_version="fake", incarnation="r", snapshot=snapshot)
    stream = Stream(stub.Session, cell_pb2.CellMessage(hello=hello), lambda _: None).open()
    until(lambda: any(m.HasField("report_ack") for m in stream.received), "the hello is durable")
    assert {name: site.controller.node(name).cell_member for name in (*NODES, "node-3")} == dict.fromkeys(
        (*NODES, "node-3"), True
    )
    assert 'reason="NOT_YOUR_NODES"' in site.controller.metrics()


def test_tokens_are_not_to_be_guessed_and_never_for_another(site: Site) -> None:
    """What a stranger tries at the join port costs no turn and no line of audit, however often it is tried."""
    controller = site.controller
    before = audited(controller)
    for guess in ("", "x" * 43, "\u0000", "x" * 300):
        with pytest.raises(grpc.RpcError) as caught:
            controller.join(guess, signing_request())
        assert refusal(caught.value) == (UNAUTHENTICATED, "TOKEN_UNKNOWN")
    with pytest.raises(grpc.RpcError) as caught:
        controller.join("x" * 43, b"y" * (1 << 20))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, "the join port takes no large message"
    assert audited(controller) == before


def test_a_renewal_gives_what_was_given_before_and_nothing_more(site: Site) -> None:
    """The names in a signing request are not read; a node cannot become an operator, nor renew when it is revoked."""
    from phalanx.v1 import identity_pb2, identity_pb2_grpc

    shown: Shown = site.controller.shown("node", "node-3")
    stub = identity_pb2_grpc.IdentityServiceStub(site.controller.channel_as(shown))
    stub.Renew(identity_pb2.RenewRequest(csr_pem=signing_request()), timeout=30)
    assert site.controller.identity("node/node-3")
    site.controller.revoke("node/node-3")
    with pytest.raises(grpc.RpcError) as caught:
        stub.Renew(identity_pb2.RenewRequest(csr_pem=signing_request()), timeout=30)
    assert refusal(caught.value) == (UNAUTHENTICATED, "REVOKED")
    operator = site.controller.shown("operator", "olga", role=Role.ADMIN)
    stub = identity_pb2_grpc.IdentityServiceStub(site.controller.channel_as(operator))
    with pytest.raises(grpc.RpcError) as caught:
        stub.Renew(identity_pb2.RenewRequest(csr_pem=signing_request()), timeout=30)
    assert refusal(caught.value) == (DENIED, "ROLE_NEEDED"), "an operator's certificate ends when it ends"
