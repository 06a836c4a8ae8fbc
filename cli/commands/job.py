"""Jobs: submit, watch, logs, cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli import render
from cli.client import CALL_TIMEOUT_S, SUBMIT_TIMEOUT_S, Client, Refused, connect, new_request_id
from cli.code import upload
from cli.errors import CliError, Exit
from cli.following import watch_job
from cli.manifest_file import ManifestFile, read_manifest
from cli.options import DEFAULT_DIRECTORY, Address, Directory
from cli.wire import spec_to_message

if TYPE_CHECKING:
    from phalanx.v1 import job_pb2

DEFAULT_WAIT_S = 86_400.0

JobName = Annotated[str, typer.Argument(metavar="JOB", help="Name of the job.")]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(submit)
    app.command()(watch)
    app.command()(logs)
    app.command()(cancel)


def submit(
    manifest_file: Annotated[str, typer.Argument(metavar="[FILE]", help="The same as --file.")] = "",
    *,
    file: Annotated[str, typer.Option("--file", "-f", help="Manifest (YAML); `-` reads standard input.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and place, but store nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Watch until the job has ended.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds for --wait.")] = DEFAULT_WAIT_S,
    address: Address = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Submit a job. With --wait the exit code tells how it ended: 0 succeeded, 1 not, 6 time-out."""
    if bool(file) == bool(manifest_file):
        raise CliError("name one manifest", fix="phalanx submit -f job.yaml", code=Exit.USAGE)
    manifest = read_manifest(file or manifest_file)
    with connect(address, directory) as client:
        if manifest.code is not None and upload(client.code, manifest.code):
            render.note(f"shipped {manifest.code.folder}: {manifest.code.files} files, {manifest.code.digest}")
        answer = _submit(client, manifest, dry_run=dry_run)
        _show_answer(answer, dry_run=dry_run)
        if wait and not dry_run:
            _finish(_watch(client, answer.name, timeout))


def _submit(client: Client, manifest: ManifestFile, *, dry_run: bool) -> job_pb2.SubmitJobResponse:
    import grpc  # noqa: PLC0415
    from phalanx.v1 import job_pb2  # noqa: PLC0415

    from cli.client import translate  # noqa: PLC0415

    request = job_pb2.SubmitJobRequest(
        request_id=new_request_id(), spec=spec_to_message(manifest.spec), dry_run=dry_run
    )
    try:
        return client.jobs.SubmitJob(request, timeout=SUBMIT_TIMEOUT_S)
    except grpc.RpcError as error:
        refused: Refused = translate(error, client.address)
        if refused.violations:
            raise manifest.refuse(refused.violations) from error
        raise refused from error


def _show_answer(answer: job_pb2.SubmitJobResponse, *, dry_run: bool) -> None:
    render.out(f"{answer.name} {'would be accepted' if dry_run else 'submitted'} ({answer.uid or 'no uid'})")
    for rank in answer.placement:
        devices = ",".join(str(index) for index in rank.accelerators)
        render.out(f"  rank {rank.rank}: {rank.node} accelerators {devices}")
    if answer.spare_nodes:
        render.out(f"  spares: {', '.join(answer.spare_nodes)}")
    if answer.blocker:
        render.note(f"it waits: {answer.blocker}")


def watch(
    name: JobName,
    timeout: Annotated[float | None, typer.Option(help="Give up after this many seconds.")] = None,
    address: Address = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Follow a job until it has ended."""
    with connect(address, directory) as client:
        _finish(_watch(client, name, timeout))


def _watch(client: Client, name: str, timeout_s: float | None) -> job_pb2.Job:
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


def _finish(job: job_pb2.Job) -> None:
    state = render.job_state(job)
    if state != "SUCCEEDED":
        raise CliError(
            f"{job.name} ended {state} at step {job.step}",
            why=job.end_reason,
            fix=f"`phalanx why job {job.name}` and `phalanx logs {job.name} --rank 0` say more",
        )
    results = "".join(f"  {key}={value}" for key, value in sorted(job.result.items()))
    render.out(f"{job.name} SUCCEEDED at step {job.step}{results}")


def logs(
    name: JobName,
    *,
    rank: Annotated[int, typer.Option(min=0, help="Which rank.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on.")] = False,
    tail: Annotated[int, typer.Option(min=0, help="Bytes to begin with; 0: the server's default (64 KiB).")] = 0,
    address: Address = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Print a rank's output. It survives the rank: after an exit this is the newest process's log."""
    from phalanx.v1 import job_pb2  # noqa: PLC0415

    with connect(address, directory) as client:
        request = job_pb2.ReadLogsRequest(name=name, rank=rank, follow=follow, tail_bytes=tail)
        for chunk in client.jobs.ReadLogs(request, timeout=None if follow else SUBMIT_TIMEOUT_S):
            render.out_bytes(chunk.data)


def cancel(
    name: JobName,
    reason: Annotated[str, typer.Option(help="Stored with the job.")] = "cancelled by the operator",
    address: Address = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Cancel a job."""
    from phalanx.v1 import job_pb2  # noqa: PLC0415

    with connect(address, directory) as client:
        request = job_pb2.CancelJobRequest(request_id=new_request_id(), name=name, reason=reason)
        answer = client.jobs.CancelJob(request, timeout=CALL_TIMEOUT_S)
        render.out(f"{name} cancel requested at revision {answer.revision}")
