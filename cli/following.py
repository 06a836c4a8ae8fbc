"""Streams that outlive the controller: a watch that breaks is taken up again until a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from cli.client import Client, status_of
from cli.errors import CliError, Exit

if TYPE_CHECKING:
    from phalanx.v1 import event_pb2, job_pb2

T = TypeVar("T")

RETRY_FOR_S = 60.0
"""How long a watch waits for a controller that is away, when the user gave no time-out: it is restarted in seconds."""
RETRY_EVERY_S = 0.5
"""Between two tries of a call."""


def watch_job(client: Client, name: str, timeout_s: float | None = None) -> Iterator[job_pb2.Job]:
    """The job now and at every change, until it has ended. Survives a restart of the controller."""
    from phalanx.v1 import job_pb2, types_pb2  # noqa: PLC0415

    ended = {types_pb2.JOB_STATE_SUCCEEDED, types_pb2.JOB_STATE_FAILED, types_pb2.JOB_STATE_CANCELLED}
    request = job_pb2.WatchJobRequest(name=name)

    def open_stream(timeout: float | None) -> Iterator[job_pb2.WatchJobResponse]:
        return iter(client.jobs.WatchJob(request, timeout=timeout))

    for response in _persistent(open_stream, f"job {name}", timeout_s):
        yield response.job
        if response.job.state in ended:
            return


def watch_events(
    client: Client, after_revision: int, *, job: str = "", node: str = "", timeout_s: float | None = None
) -> Iterator[event_pb2.Event]:
    """Events after a revision, then live ones, without gaps or repeats over a restart of the controller."""
    from phalanx.v1 import event_pb2  # noqa: PLC0415

    revision = after_revision

    def open_stream(timeout: float | None) -> Iterator[event_pb2.WatchEventsResponse]:
        request = event_pb2.WatchEventsRequest(after_revision=revision, job=job, node=node)
        return iter(client.events.WatchEvents(request, timeout=timeout))

    for response in _persistent(open_stream, "events", timeout_s):
        for event in response.events:
            if event.revision > revision:
                yield event
        revision = max(revision, response.revision, *(event.revision for event in response.events))


def patiently(read: Callable[[], T]) -> T:
    """What `read` returns; asked again for as long as a watch waits for a controller that is away."""
    import grpc  # noqa: PLC0415

    began = time.monotonic()
    while True:
        try:
            return read()
        except grpc.RpcError as error:
            if status_of(error) != "UNAVAILABLE" or time.monotonic() - began > RETRY_FOR_S:
                raise
        time.sleep(RETRY_EVERY_S)


def _persistent(open_stream: Callable[[float | None], Iterator[T]], what: str, timeout_s: float | None) -> Iterator[T]:
    import grpc  # noqa: PLC0415

    end = None if timeout_s is None else time.monotonic() + timeout_s
    away_since: float | None = None
    delay_s = 0.1
    while True:
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            raise _too_late(what, timeout_s)
        try:
            for response in open_stream(left):
                away_since, delay_s = None, 0.1
                yield response
            # The server ended the stream without a final message: it is going down in order. Ask again.
        except grpc.RpcError as error:
            if status_of(error) == "DEADLINE_EXCEEDED" and end is not None:
                raise _too_late(what, timeout_s) from error
            if status_of(error) not in ("UNAVAILABLE", "CANCELLED"):
                raise
            away_since = away_since or time.monotonic()
            if end is None and time.monotonic() - away_since > RETRY_FOR_S:
                raise
        time.sleep(delay_s)
        delay_s = min(1.0, delay_s * 2)


def _too_late(what: str, timeout_s: float | None) -> CliError:
    return CliError(
        f"{what}: not done after {timeout_s:g} s",
        fix="it goes on; look with `phalanx watch`, or wait longer with --timeout",
        code=Exit.TIMED_OUT,
    )
