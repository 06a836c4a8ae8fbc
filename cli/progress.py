"""A job followed to its end on one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli import render
from cli.errors import CliError
from cli.following import watch_job

if TYPE_CHECKING:
    from phalanx.v1 import job_pb2

    from cli.client import Client


def follow(client: Client, name: str, timeout_s: float | None) -> job_pb2.Job:
    """The job as it ended. Raises a time-out `CliError`."""
    progress = render.Progress()
    last: job_pb2.Job | None = None
    try:
        for job in watch_job(client, name, timeout_s):
            progress.show(job)
            last = job
    finally:
        progress.close()
    if last is None:
        raise CliError(f"the watch of {name} ended without a word", fix="try again")
    return last


def ended_well(job: job_pb2.Job, *, quiet: bool = False) -> None:
    """Says how a job ended; anything but success is an error. `quiet`: success says nothing."""
    state = render.job_state(job)
    if state != "SUCCEEDED":
        raise CliError(
            f"{job.name} ended {state} at step {job.step}",
            why=render.brief(job.end_reason),
            fix=f"`phalanx why job {job.name}` and `phalanx logs {job.name} --rank 0` say more",
        )
    if not quiet:
        results = "".join(f"  {key}={value}" for key, value in sorted(job.result.items()))
        render.out(f"{job.name} SUCCEEDED at step {job.step}{results}")
