"""JobService: submit, look, watch, cancel, and read the output of ranks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

from phalanx.v1 import agent_pb2, job_pb2, job_pb2_grpc

from controlplane.core import events as ev
from controlplane.core.draft import Refusal
from controlplane.core.jobs import NONE, Job, host_id
from controlplane.core.manifest import check_spec
from controlplane.core.state import State
from controlplane.rpc.agent_service import AgentConversation
from controlplane.rpc.cell_service import preflight
from controlplane.rpc.code_service import CodeStore
from controlplane.rpc.codec import check_request, missing_sections, spec_value
from controlplane.rpc.errors import RequestRefused, refuse
from controlplane.rpc.history import History
from controlplane.rpc.logs import LogRelays, read_relay
from controlplane.rpc.sessions import Registry
from controlplane.rpc.site import Site
from controlplane.rpc.views import job_message, placement_messages, watched

WATCH_S = 0.05
"""A watcher gets at most one message in this time."""
DEFAULT_TAIL_BYTES = 64 << 10
MAX_TAIL_BYTES = 16 << 20
MAX_GRACE_MS = 24 * 3_600_000
"""Longest time between SIGTERM and SIGKILL that a cancellation may ask for."""


class JobService(job_pb2_grpc.JobServiceServicer):
    """See proto/phalanx/v1/job.proto."""

    def __init__(
        self, site: Site, agents: Registry, cells: Registry, relays: LogRelays, history: History, *, code: CodeStore
    ) -> None:
        self._site = site
        self._agents = agents
        self._cells = cells
        self._relays = relays
        self._history = history
        self._code = code

    async def SubmitJob(self, request: job_pb2.SubmitJobRequest, context: Any) -> job_pb2.SubmitJobResponse:
        """Check, ask a cell, and store a job; a dry run stores nothing."""
        site = self._site
        if not request.dry_run or request.request_id:
            check_request(request.request_id)
        if not request.HasField("spec"):
            refuse("invalid", "INVALID_SPEC", "spec is missing: send the job's specification")
        violations = missing_sections(request.spec) or check_spec(spec_value(request.spec))
        if violations:
            first = violations[0]
            text = f"{len(violations)} fields are not valid; {first.path} {first.reason}: {first.fix}"
            raise RequestRefused(Refusal("invalid", "INVALID_SPEC", text, violations))
        spec = spec_value(request.spec)
        if not (request.dry_run and await self._not_shipped_yet(spec.workload.code_digest)):
            await self._code.require(spec.workload.code_digest)
            if request.request_id not in site.state.answers:
                await preflight(site, self._cells, spec)
        event = ev.SubmitJob(request.request_id, spec, request.dry_run, site.settings.root)
        answer = (await site.command(event)).fields
        state = site.state
        spares = [state.fleet.name(int(number)) for number in answer.get("spares", "").split()]
        return job_pb2.SubmitJobResponse(
            revision=state.revision,
            name=answer.get("name", spec.name),
            uid=answer.get("uid", ""),
            blocker=answer.get("blocker", ""),
            placement=placement_messages(state, answer, spec.accelerators_per_rank),
            spare_nodes=spares,
        )

    async def ListJobs(self, request: job_pb2.ListJobsRequest, context: Any) -> job_pb2.ListJobsResponse:
        """All jobs that are still listed, by submission, without ranks."""
        state = self._site.state.ledger_at(self._site.now_ns())
        jobs = [self._message(state, job, ranks=False) for job in state.jobs.values()]
        return job_pb2.ListJobsResponse(revision=state.revision, jobs=jobs)

    async def GetJob(self, request: job_pb2.GetJobRequest, context: Any) -> job_pb2.GetJobResponse:
        """One job with ranks, parked processes and recoveries."""
        state = self._site.state.ledger_at(self._site.now_ns())
        job = find_job(state, request.name)
        return job_pb2.GetJobResponse(revision=state.revision, job=self._message(state, job, ranks=True))

    async def WatchJob(self, request: job_pb2.WatchJobRequest, context: Any) -> AsyncIterator[job_pb2.WatchJobResponse]:
        """The job now and at every change; ends after a terminal state."""
        site = self._site
        uid = find_job(site.state, request.name).uid
        told: tuple[object, ...] = ()
        while True:
            job = site.state.jobs.get(uid)
            if job is None:
                refuse("not_found", "NO_SUCH_JOB", f"job {request.name} ended long ago and is no longer listed")
            now = watched(job, site.progress.view(uid))
            if now != told:
                told = now
                state = site.state.ledger_at(site.now_ns())
                job = state.jobs[uid]
                yield job_pb2.WatchJobResponse(revision=state.revision, job=self._message(state, job, ranks=True))
                if job.terminal:
                    return
            await asyncio.sleep(WATCH_S)

    async def CancelJob(self, request: job_pb2.CancelJobRequest, context: Any) -> job_pb2.CancelJobResponse:
        """Stop a job; its processes are asked to end, then killed."""
        check_request(request.request_id, ("name", request.name))
        grace_ms = min(request.grace_ms, MAX_GRACE_MS)
        await self._site.command(ev.CancelJob(request.request_id, request.name, request.reason[:1_000], grace_ms))
        return job_pb2.CancelJobResponse(revision=self._site.state.revision)

    async def RestartJob(self, request: job_pb2.RestartJobRequest, context: Any) -> job_pb2.RestartJobResponse:
        """All ranks leave their processes and start again from the newest restore point."""
        check_request(request.request_id, ("name", request.name))
        await self._site.command(ev.RestartJob(request.request_id, request.name, request.reason[:1_000]))
        return job_pb2.RestartJobResponse(revision=self._site.state.revision)

    async def ReadLogs(self, request: job_pb2.ReadLogsRequest, context: Any) -> AsyncIterator[job_pb2.ReadLogsResponse]:
        """The output of a rank's newest process, wherever that is or was."""
        job = find_job(self._site.state, request.name)
        if request.rank >= job.spec.ranks:
            text = f"job {job.name} has ranks 0 to {job.spec.ranks - 1}: there is no rank {request.rank}"
            refuse("not_found", "NO_SUCH_RANK", text)
        serial, node = await self._newest_process(job, request.rank)
        session = self._agents.current.get(node)
        if session is None:
            text = f"the log of rank {request.rank} is on {node}, whose agent is not connected"
            refuse("unavailable", "AGENT_AWAY", text)
        stream_id, relay = self._relays.begin(node)
        try:
            order = agent_pb2.OpenLog(
                stream_id=stream_id,
                host_id=host_id(job.uid, serial),
                job_uid=job.uid,
                rank=request.rank,
                follow=request.follow,
                tail_bytes=min(request.tail_bytes or DEFAULT_TAIL_BYTES, MAX_TAIL_BYTES),
            )
            cast("AgentConversation", session).open_log(order)
            async for chunk in read_relay(relay):
                yield chunk
        finally:
            self._relays.drop(stream_id)

    async def _not_shipped_yet(self, digest: str) -> bool:
        """Whether code is named that the site does not have: what a dry run, which ships nothing, cannot have imported."""
        return bool(digest) and not await self._code.has(digest)

    async def _newest_process(self, job: Job, rank: int) -> tuple[int, str]:
        """Serial and node of the newest process that held the rank, or was started to hold it."""
        fleet = self._site.state.fleet
        if not job.placed:
            refuse("conflict", "NOT_STARTED", f"job {job.name} has no processes yet: {job.blocker or job.state.name}")
        serial = int(job.rank_host[rank])
        if serial == NONE:
            serial = await self._history.last_holder(job.uid, rank)
        home = int(job.rank_node[rank])
        if serial == NONE:
            serial = await self._history.newest_on(job.uid, home)
        if serial == NONE:
            refuse("conflict", "NOT_STARTED", f"rank {rank} of {job.name} has had no process yet")
        number = await self._history.node_of(job.uid, serial)
        return serial, fleet.name(home if number is None else number)

    def _message(self, state: State, job: Job, *, ranks: bool) -> job_pb2.Job:
        site = self._site
        return job_message(state, job, site.progress.view(job.uid), site.now_ns(), site.settings.root, ranks=ranks)


def find_job(state: State, name: str) -> Job:
    """The newest job of a name, or the job of a uid.

    Raises:
        RequestRefused: there is none.
    """
    job = state.job_named(name) or state.jobs.get(name)
    if job is None:
        refuse("not_found", "NO_SUCH_JOB", f"no job is named {name}: `phalanx get jobs` lists what there is")
    return job
