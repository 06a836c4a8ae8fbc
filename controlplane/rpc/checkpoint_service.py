"""CheckpointService: what the journal knows of checkpoints, and reading one back."""

from __future__ import annotations

from typing import Any

from phalanx.v1 import checkpoint_pb2, checkpoint_pb2_grpc

from controlplane.core import events as ev
from controlplane.rpc.caller import own_name
from controlplane.rpc.codec import check_request
from controlplane.rpc.errors import refuse
from controlplane.rpc.site import Site
from controlplane.rpc.views import checkpoint_message


class CheckpointService(checkpoint_pb2_grpc.CheckpointServiceServicer):
    """See proto/phalanx/v1/checkpoint.proto."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def ListCheckpoints(
        self, request: checkpoint_pb2.ListCheckpointsRequest, context: Any
    ) -> checkpoint_pb2.ListCheckpointsResponse:
        """Checkpoints of a job by step, or of all jobs when none is named."""
        state = self._site.state
        jobs = list(state.jobs.values())
        if request.job:
            job = state.job_named(request.job) or state.jobs.get(request.job)
            if job is None:
                text = f"no job is named {request.job}: `phalanx get jobs` lists what there is"
                refuse("not_found", "NO_SUCH_JOB", text)
            jobs = [job]
        return checkpoint_pb2.ListCheckpointsResponse(
            revision=state.revision,
            checkpoints=[
                checkpoint_message(job, checkpoint)
                for job in jobs
                for checkpoint in sorted(job.checkpoints.values(), key=lambda c: (c.step, c.generation))
            ],
        )

    async def VerifyCheckpoint(
        self, request: checkpoint_pb2.VerifyCheckpointRequest, context: Any
    ) -> checkpoint_pb2.VerifyCheckpointResponse:
        """Have a node read a checkpoint back; the verdict arrives as an event."""
        check_request(request.request_id, ("job", request.job), ("checkpoint_id", request.checkpoint_id))
        await self._site.command(ev.VerifyCheckpoint(request.request_id, request.job, request.checkpoint_id))
        return checkpoint_pb2.VerifyCheckpointResponse(revision=self._site.state.revision)

    async def PinCheckpoint(
        self, request: checkpoint_pb2.PinCheckpointRequest, context: Any
    ) -> checkpoint_pb2.PinCheckpointResponse:
        """Keep a checkpoint from retention for an owned reason."""
        named = ("job", request.job), ("checkpoint_id", request.checkpoint_id), ("reason", request.reason)
        check_request(request.request_id, *named)
        owner = request.owner or own_name()
        await self._site.command(
            ev.PinCheckpoint(request.request_id, request.job, request.checkpoint_id, owner, request.reason)
        )
        return checkpoint_pb2.PinCheckpointResponse(revision=self._site.state.revision)

    async def UnpinCheckpoint(
        self, request: checkpoint_pb2.UnpinCheckpointRequest, context: Any
    ) -> checkpoint_pb2.UnpinCheckpointResponse:
        """Remove one owner's pin."""
        check_request(request.request_id, ("job", request.job), ("checkpoint_id", request.checkpoint_id))
        owner = request.owner or own_name()
        await self._site.command(ev.UnpinCheckpoint(request.request_id, request.job, request.checkpoint_id, owner))
        return checkpoint_pb2.UnpinCheckpointResponse(revision=self._site.state.revision)

    async def PoisonCheckpoint(
        self, request: checkpoint_pb2.PoisonCheckpointRequest, context: Any
    ) -> checkpoint_pb2.PoisonCheckpointResponse:
        """Distrust a checkpoint and those after it."""
        named = ("job", request.job), ("checkpoint_id", request.checkpoint_id), ("reason", request.reason)
        check_request(request.request_id, *named)
        await self._site.command(
            ev.PoisonCheckpoint(request.request_id, request.job, request.checkpoint_id, request.reason)
        )
        return checkpoint_pb2.PoisonCheckpointResponse(revision=self._site.state.revision)

    async def ClearCheckpoints(
        self, request: checkpoint_pb2.ClearCheckpointsRequest, context: Any
    ) -> checkpoint_pb2.ClearCheckpointsResponse:
        """Trust a job's checkpoints again."""
        check_request(request.request_id, ("job", request.job), ("reason", request.reason))
        await self._site.command(ev.ClearCheckpoints(request.request_id, request.job, own_name(), request.reason))
        return checkpoint_pb2.ClearCheckpointsResponse(revision=self._site.state.revision)
