"""JobService: submit, look, watch, cancel, and read the output of ranks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from phalanx.v1 import job_pb2, job_pb2_grpc, types_pb2

from controlplane.core import events as ev
from controlplane.core.draft import Refusal
from controlplane.core.jobs import Job
from controlplane.core.manifest import check_spec
from controlplane.core.recovery.review import review
from controlplane.core.state import State
from controlplane.rpc.cell_service import preflight
from controlplane.rpc.code_service import CodeStore
from controlplane.rpc.codec import check_request, missing_sections, spec_value
from controlplane.rpc.errors import RequestRefused, refuse
from controlplane.rpc.history import History
from controlplane.rpc.logs import LogRelays
from controlplane.rpc.rank_logs import RankLogs
from controlplane.rpc.sessions import Registry
from controlplane.rpc.site import Site
from controlplane.rpc.views import job_message, placement_messages, watched

WATCH_S = 0.05
"""A watcher gets at most one message in this time."""
MAX_GRACE_MS = 24 * 3_600_000
"""Longest time between SIGTERM and SIGKILL that a cancellation may ask for."""


class JobService(job_pb2_grpc.JobServiceServicer):
    """See proto/phalanx/v1/job.proto."""

    def __init__(
        self, site: Site, agents: Registry, cells: Registry, relays: LogRelays, history: History, *, code: CodeStore
    ) -> None:
        self._site = site
        self._cells = cells
        self._logs = RankLogs(site, agents, relays, history)
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
        event = ev.SubmitJob(request.request_id, spec, request.dry_run, site.root)
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
            warnings=[types_pb2.FieldViolation(path=one.path, reason=one.reason, fix=one.fix) for one in review(spec)],
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
        """The output of a rank's newest process, wherever that is or was; followed, also of the processes after it."""
        job = find_job(self._site.state, request.name)
        if request.rank >= job.spec.ranks:
            text = f"job {job.name} has ranks 0 to {job.spec.ranks - 1}: there is no rank {request.rank}"
            refuse("not_found", "NO_SUCH_RANK", text)
        if request.previous and (request.follow or request.after_host_id):
            refuse("invalid", "PREVIOUS_FOLLOWED", "a process that has ended writes nothing more: leave follow out")
        async for chunk in self._logs.read(job, request):
            yield chunk

    async def _not_shipped_yet(self, digest: str) -> bool:
        """Whether code is named that the site does not have: what a dry run, which ships nothing, cannot have imported."""
        return bool(digest) and not await self._code.has(digest)

    def _message(self, state: State, job: Job, *, ranks: bool) -> job_pb2.Job:
        site = self._site
        return job_message(state, job, site.progress.view(job.uid), site.now_ns(), site.root, ranks=ranks)


def find_job(state: State, name: str) -> Job:
    """The newest job of a name, or the job of a uid.

    Raises:
        RequestRefused: there is none.
    """
    job = state.job_named(name) or state.jobs.get(name)
    if job is None:
        refuse("not_found", "NO_SUCH_JOB", f"no job is named {name}: `phalanx get jobs` lists what there is")
    return job
