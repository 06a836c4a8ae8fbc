"""Stragglers, and where the time of a step goes, as messages for operators."""

from __future__ import annotations

from phalanx.v1 import fleet_pb2, job_pb2

from controlplane.core.jobs import Job
from controlplane.core.state import State
from controlplane.rpc.ages import age_s
from controlplane.rpc.codec import rfc3339


def straggler_messages(state: State, job: Job) -> list[job_pb2.Straggler]:
    """Of one job, by rank."""
    return [
        job_pb2.Straggler(
            rank=one.rank, node=one.node, accelerators=one.devices, cause=one.cause.value, factor=one.factor,
            since=rfc3339(one.since_ns),
        )
        for one in state.stragglers.of(job.uid)
    ]  # fmt: skip


def parts_message(parts_us: tuple[float, ...]) -> job_pb2.StepParts | None:
    """See `engine.phases.PARTS`; None: nothing is known."""
    if not parts_us:
        return None
    compute, waiting, data, collection, checkpoint = (value / 1e6 for value in parts_us)
    return job_pb2.StepParts(
        compute_s=compute, waiting_s=waiting, data_s=data, collection_s=collection, checkpoint_s=checkpoint
    )


def slow_ranks(state: State, now_ns: int) -> list[fleet_pb2.SlowRank]:
    """Of all jobs that have not ended."""
    return [
        fleet_pb2.SlowRank(
            job=job.name, rank=one.rank, node=one.node, accelerators=one.devices, cause=one.cause.value,
            factor=one.factor, age_s=age_s(one.since_ns, now_ns),
        )
        for job in state.active_jobs()
        for one in state.stragglers.of(job.uid)
    ]  # fmt: skip
