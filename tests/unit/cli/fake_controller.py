"""A controller that answers from tables, behind a real gRPC server: what the CLI sends and shows is tested against it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
from phalanx.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    checkpoint_pb2,
    checkpoint_pb2_grpc,
    event_pb2,
    event_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    types_pb2,
)

from cli.kinds import columns_of


@dataclass
class Refusal:
    code: grpc.StatusCode
    message: str
    reason: str = ""
    violations: tuple[tuple[str, str, str], ...] = ()


@dataclass
class FakeController(
    job_pb2_grpc.JobServiceServicer,
    fleet_pb2_grpc.FleetServiceServicer,
    event_pb2_grpc.EventServiceServicer,
    checkpoint_pb2_grpc.CheckpointServiceServicer,
    audit_pb2_grpc.AuditServiceServicer,
    admin_pb2_grpc.AdminServiceServicer,
):
    jobs: dict[str, job_pb2.Job] = field(default_factory=dict)
    nodes: dict[str, fleet_pb2.Node] = field(default_factory=dict)
    checkpoints: list[checkpoint_pb2.Checkpoint] = field(default_factory=list)
    events: list[event_pb2.Event] = field(default_factory=list)
    watched: list[list[job_pb2.Job]] = field(default_factory=list)
    site: fleet_pb2.GetSiteResponse = field(default_factory=lambda: fleet_pb2.GetSiteResponse(version="0.1.0"))
    refusals: dict[str, Refusal] = field(default_factory=dict)
    requests: list[Any] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    log_breaks_after: int = 0
    """Bytes after which a log ends as if the controller went away; once."""
    calls: int = 0
    audit: list[audit_pb2.AuditRecord] = field(default_factory=list)
    history: list[event_pb2.Record] = field(default_factory=list)
    decisions: list[event_pb2.Decision] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    settings: dict[str, float] = field(default_factory=dict)
    warnings: list[tuple[str, str, str]] = field(default_factory=list)
    audit_head: tuple[int, str] = (0, "")
    knows_columns: bool = False
    refused_nodes: set[str] = field(default_factory=set)
    faults: fleet_pb2.ListFaultsResponse = field(default_factory=fleet_pb2.ListFaultsResponse)
    rules: fleet_pb2.ListFaultRulesResponse = field(default_factory=fleet_pb2.ListFaultRulesResponse)
    offenders: fleet_pb2.ListOffendersResponse = field(default_factory=fleet_pb2.ListOffendersResponse)
    health: fleet_pb2.GetHealthResponse = field(default_factory=fleet_pb2.GetHealthResponse)

    def hang_up(self) -> None:
        """Ends every stream of events that is open now."""
        self.calls += 1

    def _seen(self, request: Any, context: grpc.ServicerContext) -> None:
        self.requests.append(request)
        refusal = self.refusals.get(type(request).__name__)
        if refusal:
            self._refuse(context, refusal)

    @staticmethod
    def _refuse(context: grpc.ServicerContext, refusal: Refusal) -> NoReturn:
        metadata: list[tuple[str, str | bytes]] = [("phalanx-reason", refusal.reason)] if refusal.reason else []
        for path, reason, fix in refusal.violations:
            violation = types_pb2.FieldViolation(path=path, reason=reason, fix=fix)
            metadata.append(("phalanx-violation-bin", violation.SerializeToString()))
        context.set_trailing_metadata(tuple(metadata))
        context.abort(refusal.code, refusal.message)

    def _find(self, table: dict[str, Any], name: str, context: grpc.ServicerContext) -> Any:
        if name not in table:
            self._refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, f"there is no `{name}`"))
        return table[name]

    def SubmitJob(self, request: Any, context: grpc.ServicerContext) -> job_pb2.SubmitJobResponse:
        self._seen(request, context)
        ranks = [
            job_pb2.Rank(rank=n, node=f"node-{n // 2 + 1}", accelerators=[n % 2]) for n in range(request.spec.ranks)
        ]
        warnings = [types_pb2.FieldViolation(path=path, reason=reason, fix=fix) for path, reason, fix in self.warnings]
        return job_pb2.SubmitJobResponse(
            name=request.spec.name, uid="u-1", placement=ranks, spare_nodes=["node-3"], warnings=warnings
        )

    def ListJobs(self, request: Any, context: grpc.ServicerContext) -> job_pb2.ListJobsResponse:
        self._seen(request, context)
        return job_pb2.ListJobsResponse(jobs=self.jobs.values())

    def GetJob(self, request: Any, context: grpc.ServicerContext) -> job_pb2.GetJobResponse:
        self._seen(request, context)
        return job_pb2.GetJobResponse(job=self._find(self.jobs, request.name, context))

    def WatchJob(self, request: Any, context: grpc.ServicerContext) -> Iterator[job_pb2.WatchJobResponse]:
        self._seen(request, context)
        if not self.watched:  # nothing more to say: stay silent until the watcher gives up
            while context.is_active():
                yield job_pb2.WatchJobResponse(job=job_pb2.Job(name=request.name, state=types_pb2.JOB_STATE_RUNNING))
        for job in self.watched.pop(0):
            yield job_pb2.WatchJobResponse(job=job)

    def CancelJob(self, request: Any, context: grpc.ServicerContext) -> job_pb2.CancelJobResponse:
        self._seen(request, context)
        return job_pb2.CancelJobResponse(revision=9)

    def RestartJob(self, request: Any, context: grpc.ServicerContext) -> job_pb2.RestartJobResponse:
        self._seen(request, context)
        return job_pb2.RestartJobResponse(revision=6)

    def DrainNode(self, request: Any, context: grpc.ServicerContext) -> fleet_pb2.DrainNodeResponse:
        self._seen(request, context)
        return fleet_pb2.DrainNodeResponse(revision=4, jobs=self._find(self.nodes, request.name, context).jobs)

    def RetireNode(self, request: Any, context: grpc.ServicerContext) -> fleet_pb2.RetireNodeResponse:
        self._seen(request, context)
        self._find(self.nodes, request.name, context)
        return fleet_pb2.RetireNodeResponse(revision=5)

    def GetPolicy(self, request: Any, context: grpc.ServicerContext) -> admin_pb2.GetPolicyResponse:
        self._seen(request, context)
        return admin_pb2.GetPolicyResponse(revision=5, settings=self.settings, fault_table="0a1b")

    def VerifyCheckpoint(self, request: Any, context: grpc.ServicerContext) -> checkpoint_pb2.VerifyCheckpointResponse:
        self._seen(request, context)
        return checkpoint_pb2.VerifyCheckpointResponse(revision=2)

    def PinCheckpoint(self, request: Any, context: grpc.ServicerContext) -> checkpoint_pb2.PinCheckpointResponse:
        self._seen(request, context)
        return checkpoint_pb2.PinCheckpointResponse(revision=3)

    def UnpinCheckpoint(self, request: Any, context: grpc.ServicerContext) -> checkpoint_pb2.UnpinCheckpointResponse:
        self._seen(request, context)
        return checkpoint_pb2.UnpinCheckpointResponse(revision=3)

    def PoisonCheckpoint(self, request: Any, context: grpc.ServicerContext) -> checkpoint_pb2.PoisonCheckpointResponse:
        self._seen(request, context)
        return checkpoint_pb2.PoisonCheckpointResponse(revision=3)

    def ClearCheckpoints(self, request: Any, context: grpc.ServicerContext) -> checkpoint_pb2.ClearCheckpointsResponse:
        self._seen(request, context)
        return checkpoint_pb2.ClearCheckpointsResponse(revision=4)

    def ListAudit(self, request: Any, context: grpc.ServicerContext) -> audit_pb2.ListAuditResponse:
        """Two records at a time, so that pages matter."""
        self._seen(request, context)
        newest = (
            self.audit_head if self.audit_head[0] else max(((r.number, r.digest) for r in self.audit), default=(0, ""))
        )
        page = [record for record in self.audit if record.number > request.after_number][:2]
        return audit_pb2.ListAuditResponse(records=page, newest_number=newest[0], newest_digest=newest[1])

    def ReadLogs(self, request: Any, context: grpc.ServicerContext) -> Iterator[job_pb2.ReadLogsResponse]:
        self._seen(request, context)
        at = 0
        for chunk in self.chunks:
            at += len(chunk)
            if at > request.after_offset:
                yield job_pb2.ReadLogsResponse(data=chunk, host_id="moe-1-1", end_offset=at)
            if self.log_breaks_after and at >= self.log_breaks_after:
                self.log_breaks_after = 0
                context.abort(grpc.StatusCode.UNAVAILABLE, "going down")

    def GetSite(self, request: Any, context: grpc.ServicerContext) -> fleet_pb2.GetSiteResponse:
        self._seen(request, context)
        return self.site

    def ListFaults(self, request: Any, context: grpc.ServicerContext) -> fleet_pb2.ListFaultsResponse:
        self._seen(request, context)
        return self.faults

    def ListFaultRules(self, request: Any, context: grpc.ServicerContext) -> fleet_pb2.ListFaultRulesResponse:
        self._seen(request, context)
        return self.rules

    def ListOffenders(self, request: Any, context: grpc.ServicerContext) -> fleet_pb2.ListOffendersResponse:
        self._seen(request, context)
        return self.offenders

    def GetHealth(self, request: Any, context: grpc.ServicerContext) -> fleet_pb2.GetHealthResponse:
        self._seen(request, context)
        return self.health

    def ListNodes(self, request: Any, context: grpc.ServicerContext) -> fleet_pb2.ListNodesResponse:
        self._seen(request, context)
        if request.columns and self.knows_columns:
            return fleet_pb2.ListNodesResponse(columns=columns_of(list(self.nodes.values())))
        return fleet_pb2.ListNodesResponse(nodes=self.nodes.values())

    def GetNode(self, request: Any, context: grpc.ServicerContext) -> fleet_pb2.GetNodeResponse:
        self._seen(request, context)
        return fleet_pb2.GetNodeResponse(node=self._find(self.nodes, request.name, context))

    def CordonNode(self, request: Any, context: grpc.ServicerContext) -> fleet_pb2.CordonNodeResponse:
        self._seen(request, context)
        return fleet_pb2.CordonNodeResponse(revision=7)

    def UncordonNode(self, request: Any, context: grpc.ServicerContext) -> fleet_pb2.UncordonNodeResponse:
        self._seen(request, context)
        if request.name in self.refused_nodes:
            said = f"{request.name} has no cordon of yours"
            self._refuse(context, Refusal(grpc.StatusCode.FAILED_PRECONDITION, said, "NO_SUCH_CORDON"))
        return fleet_pb2.UncordonNodeResponse(revision=8)

    def InjectAcceleratorFault(
        self, request: Any, context: grpc.ServicerContext
    ) -> fleet_pb2.InjectAcceleratorFaultResponse:
        self._seen(request, context)
        return fleet_pb2.InjectAcceleratorFaultResponse(revision=5)

    def ListCheckpoints(self, request: Any, context: grpc.ServicerContext) -> checkpoint_pb2.ListCheckpointsResponse:
        self._seen(request, context)
        found = [one for one in self.checkpoints if request.job in ("", one.job, one.id.split("/")[0])]
        return checkpoint_pb2.ListCheckpointsResponse(checkpoints=found)

    def ListEvents(self, request: Any, context: grpc.ServicerContext) -> event_pb2.ListEventsResponse:
        self._seen(request, context)
        found = [event for event in self.events if event.revision > request.after_revision]
        return event_pb2.ListEventsResponse(revision=max([0, *(e.revision for e in found)]), events=found)

    def WatchEvents(self, request: Any, context: grpc.ServicerContext) -> Iterator[event_pb2.WatchEventsResponse]:
        self._seen(request, context)
        revision = request.after_revision
        calls = self.calls
        while context.is_active() and calls == self.calls:
            found = [event for event in list(self.events) if event.revision > revision]
            if found:
                revision = found[-1].revision
                yield event_pb2.WatchEventsResponse(revision=revision, events=found)
            time.sleep(0.01)

    def ReadHistory(self, request: Any, context: grpc.ServicerContext) -> Iterator[event_pb2.ReadHistoryResponse]:
        """One record a page, so that pages matter."""
        self._seen(request, context)
        for record in self.history:
            if record.type in request.types:
                yield event_pb2.ReadHistoryResponse(records=[record])

    def Explain(self, request: Any, context: grpc.ServicerContext) -> event_pb2.ExplainResponse:
        self._seen(request, context)
        return event_pb2.ExplainResponse(
            summary=f"because of {request.name}", chain=self.events, decisions=self.decisions, changes=self.changes
        )


class Served:
    """A `FakeController` on a port."""

    def __init__(self) -> None:
        self.controller = FakeController()
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
        job_pb2_grpc.add_JobServiceServicer_to_server(self.controller, self._server)
        fleet_pb2_grpc.add_FleetServiceServicer_to_server(self.controller, self._server)
        event_pb2_grpc.add_EventServiceServicer_to_server(self.controller, self._server)
        checkpoint_pb2_grpc.add_CheckpointServiceServicer_to_server(self.controller, self._server)
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self.controller, self._server)
        audit_pb2_grpc.add_AuditServiceServicer_to_server(self.controller, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()
