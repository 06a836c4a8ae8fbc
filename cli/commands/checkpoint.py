"""Checkpoints: ls, verify, pin, unpin, poison, clear."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

from cli import render
from cli.client import CALL_TIMEOUT_S, Client, new_request_id
from cli.completing import job_names
from cli.durations import Timeout, Wait
from cli.errors import CliError, Exit
from cli.grammar import Argument, Group, Option
from cli.kinds import listing
from cli.listing import Selection, not_found, show
from cli.options import Output, OutputForm, SiteChoice, for_site
from cli.wire import enum_word

if TYPE_CHECKING:
    from phalanx.v1 import checkpoint_pb2

POLL_S = 0.5

JobName = Annotated[str, Argument(metavar="JOB", help="A job, or a checkpoint's id alone.", autocompletion=job_names)]
CheckpointId = Annotated[str, Argument(metavar="[CHECKPOINT]", help="Its id; default: the job's newest.")]
Owner = Annotated[str, Option(help="Whose pin it is; only the same owner removes it. Default: your own name.")]


def register(app: Group) -> None:
    """Adds the group."""
    group = Group("Checkpoints: list, verify, keep.")
    app.add_group(group, name="checkpoints")
    group.command(epilog="Example: phalanx checkpoints ls moe --field state=VERIFIED")(ls)
    group.command(epilog="Example: phalanx checkpoints verify moe --wait")(verify)
    group.command(epilog="Example: phalanx checkpoints pin moe --reason 'before the new data'")(pin)
    group.command(epilog="Example: phalanx checkpoints unpin moe-1/g2/step-400")(unpin)
    group.command(epilog="Example: phalanx checkpoints poison moe-1/g2/step-400 --reason 'odd loss'")(poison)
    group.command(epilog="Example: phalanx checkpoints clear moe --reason 'replay agrees'")(clear)


@for_site
def ls(
    job: Annotated[str, Argument(metavar="[JOB]", help="Only of this job.", autocompletion=job_names)] = "",
    *,
    field: Annotated[str, Option("--field", metavar="SELECTOR", help="For example state=VERIFIED.")] = "",
    output: OutputForm = Output.TABLE,
    site: SiteChoice,
) -> None:
    """List checkpoints: the same as `get checkpoints`."""
    with site.connect() as client:
        found = listing(client, "checkpoints", full=True, job=job)
        show(found, found.select(Selection(fields=field)), output)


@for_site
def verify(
    job: JobName,
    checkpoint: CheckpointId = "",
    *,
    wait: Wait = False,
    timeout: Timeout = 600.0,
    site: SiteChoice,
) -> None:
    """Read every file of a checkpoint back on a node and compare digests.

    With --wait the exit code is the verdict: 0 VERIFIED, 1 POISONED, 6 time-out.
    """
    from phalanx.v1 import checkpoint_pb2  # noqa: PLC0415

    with site.connect() as client:
        one = _chosen(client, job, checkpoint)
        request = checkpoint_pb2.VerifyCheckpointRequest(request_id=new_request_id(), job=one.job, checkpoint_id=one.id)
        answer = client.checkpoints.VerifyCheckpoint(request, timeout=CALL_TIMEOUT_S)
        render.note(f"{one.id} (step {one.step}) is read back, asked at revision {answer.revision}")
        if wait:
            _verdict(client, one.job, one.id, timeout)


def _verdict(client: Client, job: str, checkpoint: str, timeout_s: float | None) -> None:
    end = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        one = _chosen(client, job, checkpoint)
        state = _state(one)
        if state == "VERIFIED":
            render.out(f"{one.id} VERIFIED")
            return
        if state in ("POISONED", "EXPIRED"):
            raise CliError(f"{one.id} is {state}", why=one.reason, fix=f"`phalanx why checkpoint {one.id}`")
        if end is not None and time.monotonic() > end:
            fix = f"it goes on; look with `phalanx describe checkpoint {one.id}`"
            raise CliError(f"{one.id}: no verdict after {timeout_s:g} s", fix=fix, code=Exit.TIMED_OUT)
        time.sleep(POLL_S)


@for_site
def pin(
    job: JobName,
    checkpoint: CheckpointId = "",
    *,
    reason: Annotated[str, Option(help="Why it is kept.")] = "kept by the operator",
    owner: Owner = "",
    site: SiteChoice,
) -> None:
    """Keep a checkpoint: retention does not delete it until its owner unpins it."""
    from phalanx.v1 import checkpoint_pb2  # noqa: PLC0415

    with site.connect() as client:
        one = _chosen(client, job, checkpoint)
        request = checkpoint_pb2.PinCheckpointRequest(
            request_id=new_request_id(), job=one.job, checkpoint_id=one.id, owner=owner, reason=reason
        )
        answer = client.checkpoints.PinCheckpoint(request, timeout=CALL_TIMEOUT_S)
        render.out(f"{one.id} (step {one.step}) pinned at revision {answer.revision}")


@for_site
def unpin(
    job: JobName,
    checkpoint: Annotated[str, Argument(metavar="[CHECKPOINT]", help="Its id.")] = "",
    *,
    owner: Owner = "",
    site: SiteChoice,
) -> None:
    """Remove one owner's pin from a checkpoint."""
    from phalanx.v1 import checkpoint_pb2  # noqa: PLC0415

    with site.connect() as client:
        if not checkpoint and "/" not in job:
            raise CliError("which checkpoint?", fix=f"`phalanx checkpoints ls {job}` lists them", code=Exit.USAGE)
        one = _chosen(client, job, checkpoint)
        request = checkpoint_pb2.UnpinCheckpointRequest(
            request_id=new_request_id(), job=one.job, checkpoint_id=one.id, owner=owner
        )
        answer = client.checkpoints.UnpinCheckpoint(request, timeout=CALL_TIMEOUT_S)
        render.out(f"{one.id} unpinned at revision {answer.revision}")


@for_site
def poison(
    job: JobName,
    checkpoint: CheckpointId = "",
    *,
    reason: Annotated[str, Option(help="What is wrong with it.")],
    site: SiteChoice,
) -> None:
    """Distrust a checkpoint and every later one: the job's next start lies before them. It runs on until then."""
    from phalanx.v1 import checkpoint_pb2  # noqa: PLC0415

    with site.connect() as client:
        one = _chosen(client, job, checkpoint)
        request = checkpoint_pb2.PoisonCheckpointRequest(
            request_id=new_request_id(), job=one.job, checkpoint_id=one.id, reason=reason
        )
        answer = client.checkpoints.PoisonCheckpoint(request, timeout=CALL_TIMEOUT_S)
        render.out(f"{one.id} (step {one.step}) and later ones are poisoned at revision {answer.revision}")


@for_site
def clear(
    job: Annotated[str, Argument(metavar="JOB", help="A job.", autocompletion=job_names)],
    *,
    reason: Annotated[str, Option(help="Why they can be trusted.")],
    site: SiteChoice,
) -> None:
    """Trust a job's checkpoints again that were poisoned by doubt alone; each is read back first."""
    from phalanx.v1 import checkpoint_pb2  # noqa: PLC0415

    with site.connect() as client:
        request = checkpoint_pb2.ClearCheckpointsRequest(request_id=new_request_id(), job=job, reason=reason)
        answer = client.checkpoints.ClearCheckpoints(request, timeout=CALL_TIMEOUT_S)
        render.out(f"checkpoints of {job} are trusted again at revision {answer.revision}")


def _state(item: checkpoint_pb2.Checkpoint) -> str:
    from phalanx.v1 import types_pb2  # noqa: PLC0415

    return enum_word(types_pb2.CheckpointState, item.state)


def _chosen(client: Client, job: str, checkpoint: str) -> checkpoint_pb2.Checkpoint:
    """The checkpoint of that id, or the newest that could be restored. An id alone names its job: it begins with the uid."""
    from phalanx.v1 import checkpoint_pb2  # noqa: PLC0415

    if "/" in job and not checkpoint:
        job, checkpoint = job.split("/", 1)[0], job

    request = checkpoint_pb2.ListCheckpointsRequest(job=job)
    items = list(client.checkpoints.ListCheckpoints(request, timeout=CALL_TIMEOUT_S).checkpoints)
    if checkpoint:
        found = [item for item in items if item.id == checkpoint]
        if not found:
            raise not_found("checkpoints", [checkpoint], [item.id for item in items])
        return found[0]
    usable = [item for item in items if _state(item) in ("COMMITTED", "VERIFIED")]
    if not usable:
        raise CliError(f"{job} has no checkpoint yet", fix=f"`phalanx checkpoints ls {job}`", code=Exit.NOT_FOUND)
    return max(usable, key=lambda item: (item.step, item.generation))
