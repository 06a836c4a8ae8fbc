"""Jobs that run: watch, logs, cancel, restart."""

from __future__ import annotations

from typing import Annotated

from cli import render
from cli.client import CALL_TIMEOUT_S, Client, new_request_id
from cli.completing import job_names
from cli.confirm import Yes, agreed
from cli.durations import Timeout, Wait, parse_seconds
from cli.errors import CliError, Exit
from cli.grammar import Argument, Group, Option
from cli.options import SiteChoice, for_site
from cli.progress import ended_well, follow

JobName = Annotated[str, Argument(metavar="JOB", help="Name of the job.", autocompletion=job_names)]
JobNames = Annotated[list[str], Argument(metavar="JOB...", help="Names of jobs.", autocompletion=job_names)]


def register(app: Group) -> None:
    """Adds the commands."""
    app.command(epilog="Example: phalanx watch moe --timeout 2h")(watch)
    app.command(epilog="Example: phalanx logs moe --rank 0,4-7 -f")(logs)
    app.command(epilog="Example: phalanx cancel moe --grace 30s --wait --yes")(cancel)
    app.command(epilog="Example: phalanx restart moe --reason 'new driver' --yes")(restart)


@for_site
def watch(name: JobName, *, timeout: Timeout = None, site: SiteChoice) -> None:
    """Follow a job until it has ended. The exit code tells how: 0 succeeded, 1 not, 6 time-out."""
    with site.connect() as client:
        ended_well(follow(client, name, timeout))


@for_site
def logs(
    name: JobName,
    *,
    rank: Annotated[str, Option(help="Which ranks: 0, 0-3,7, or `all`. Several are told apart by a prefix.")] = "0",
    follow_on: Annotated[bool, Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    previous: Annotated[
        bool, Option("--previous", "-p", help="Of the process that held the rank before the newest one.")
    ] = False,
    since_start: Annotated[bool, Option("--since-start", help="From the first byte of the process.")] = False,
    tail: Annotated[int, Option(min=0, help="Bytes to begin with; 0: the server's default (64 KiB).")] = 0,
    site: SiteChoice,
) -> None:
    """Print a rank's output. It survives the rank: after an exit this is the newest process's log.

    Followed, it goes on with the processes that the rank gets after a failure, until the job has ended.
    """
    from cli.logs import SINCE_START, Reading, all_ranks, print_logs, ranks_named  # noqa: PLC0415

    if previous and follow_on:
        said = "--previous and --follow exclude each other"
        raise CliError(said, fix="a process that has ended writes nothing more", code=Exit.USAGE)

    if since_start and tail:
        raise CliError("--since-start and --tail exclude each other", fix="leave one out", code=Exit.USAGE)
    named = ranks_named(rank)
    with site.connect() as client:
        ranks = all_ranks(client, name) if named is None else named
        print_logs(client, name, ranks, Reading(follow_on, SINCE_START if since_start else tail, previous))


@for_site
def cancel(
    names: JobNames,
    *,
    reason: Annotated[str, Option(help="Stored with the job.")] = "cancelled by the operator",
    grace: Annotated[
        float | None,
        Option(
            parser=parse_seconds,
            metavar="DURATION",
            help="From SIGTERM to SIGKILL. Default: the job's own stop time-out.",
        ),
    ] = None,
    wait: Wait = False,
    timeout: Timeout = 300.0,
    yes: Yes = False,
    site: SiteChoice,
) -> None:
    """Cancel jobs: SIGTERM, a deadline, SIGKILL. A cancelled job does not come back."""
    from phalanx.v1 import job_pb2  # noqa: PLC0415

    if grace is not None and grace < 0.001:
        raise CliError("--grace is too short", fix="use 1ms or more", code=Exit.USAGE)
    deadline = "its own stop time-out" if grace is None else render.seconds(grace)
    plan = (
        f"every rank of {name} gets SIGTERM, and after {deadline} SIGKILL; the job ends CANCELLED" for name in names
    )
    agreed(*plan, yes=yes)
    with site.connect() as client:
        for name in names:
            request = job_pb2.CancelJobRequest(
                request_id=new_request_id(), name=name, reason=reason, grace_ms=round((grace or 0) * 1_000)
            )
            answer = client.jobs.CancelJob(request, timeout=CALL_TIMEOUT_S)
            render.out(f"{name} cancel requested at revision {answer.revision}")
        if wait:
            for name in names:
                _cancelled(client, name, timeout)


def _cancelled(client: Client, name: str, timeout_s: float | None) -> None:
    state = render.job_state(follow(client, name, timeout_s))
    if state != "CANCELLED":
        raise CliError(f"{name} ended {state} before it could be cancelled", code=Exit.CONFLICT)
    render.out(f"{name} CANCELLED")


@for_site
def restart(
    name: JobName,
    *,
    reason: Annotated[str, Option(help="Stored with the job.")] = "restarted by the operator",
    wait: Annotated[bool, Option("--wait", help="Return when the new generation runs.")] = False,
    timeout: Timeout = 300.0,
    yes: Yes = False,
    site: SiteChoice,
) -> None:
    """Restart a job: every rank leaves its process and starts again from the newest restore point."""
    from phalanx.v1 import job_pb2  # noqa: PLC0415

    with site.connect() as client:
        job = client.jobs.GetJob(job_pb2.GetJobRequest(name=name), timeout=CALL_TIMEOUT_S).job
        since = f"step {job.last_checkpoint_step}" if job.last_checkpoint_step else "step 0, it has no checkpoint"
        lost = max(0, int(job.step) - int(job.last_checkpoint_step))
        agreed(f"all ranks of {name} end and start again from {since}; about {lost} steps are made again", yes=yes)
        request = job_pb2.RestartJobRequest(request_id=new_request_id(), name=name, reason=reason)
        answer = client.jobs.RestartJob(request, timeout=CALL_TIMEOUT_S)
        render.out(f"{name} restart requested at revision {answer.revision}")
        if wait:
            _runs_again(client, name, int(job.generation), timeout)


def _runs_again(client: Client, name: str, before: int, timeout_s: float | None) -> None:
    from cli.following import watch_job  # noqa: PLC0415

    for job in watch_job(client, name, timeout_s):
        if job.generation > before and render.job_state(job) == "RUNNING":
            render.out(f"{name} RUNNING in generation {job.generation}")
            return
        if job.ended_at:
            ended_well(job)
            return
