"""Look at what there is: get and describe."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import describe as descriptions
from cli import render
from cli.client import CALL_TIMEOUT_S, Client, connect
from cli.errors import CliError, Exit
from cli.options import DEFAULT_DIRECTORY, Address, Directory, Output, OutputForm
from cli.wire import enum_word, plain

if TYPE_CHECKING:
    from phalanx.v1 import checkpoint_pb2, fleet_pb2, job_pb2

KINDS = {
    "job": "jobs",
    "jobs": "jobs",
    "node": "nodes",
    "nodes": "nodes",
    "checkpoint": "checkpoints",
    "checkpoints": "checkpoints",
    "site": "site",
}


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(get)
    app.command()(describe)


def get(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="jobs, nodes, checkpoints or site.")],
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these.")] = None,
    *,
    job: Annotated[str, typer.Option(help="Only checkpoints of this job.")] = "",
    output: OutputForm = Output.TABLE,
    address: Address = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """List jobs, nodes or checkpoints, or show the site. `get site` exits with 7 when the controller is degraded."""
    wanted = _kind(kind)
    with connect(address, directory) as client:
        if wanted == "site":
            _get_site(client, output)
        elif wanted == "jobs":
            _show(_jobs(client, names or []), output, JOB_COLUMNS, _job_row, lambda item: item.name)
        elif wanted == "nodes":
            _show(_nodes(client, names or []), output, NODE_COLUMNS, _node_row, lambda item: item.name)
        else:
            found = _checkpoints(client, job, names or [])
            _show(found, output, CHECKPOINT_COLUMNS, _checkpoint_row, lambda item: item.id)


def describe(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="job or node.")],
    name: Annotated[str, typer.Argument(metavar="NAME")],
    address: Address = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Show everything about one job or node."""
    wanted = _kind(kind)
    if wanted not in ("jobs", "nodes"):
        raise CliError(f"`{kind}` cannot be described", fix="use job or node", code=Exit.USAGE)
    with connect(address, directory) as client:
        if wanted == "jobs":
            descriptions.job(_jobs(client, [name])[0])
        else:
            descriptions.node(_nodes(client, [name])[0])


def _kind(kind: str) -> str:
    if kind.lower() in KINDS:
        return KINDS[kind.lower()]
    near = difflib.get_close_matches(kind.lower(), KINDS, n=1)
    fix = f"did you mean `{near[0]}`?" if near else "use jobs, nodes, checkpoints or site"
    raise CliError(f"there are no `{kind}`", fix=fix, code=Exit.USAGE)


def _show(
    items: list[Any],
    output: Output,
    columns: tuple[str, ...],
    row: Callable[[Any], list[str]],
    name: Callable[[Any], str],
) -> None:
    if output in (Output.TABLE, Output.WIDE):
        render.table(columns, [row(item) for item in items])
    elif output is Output.NAME:
        for item in items:
            render.out(name(item))
    else:
        render.document([plain(item) for item in items], output.value)


def _jobs(client: Client, names: list[str]) -> list[job_pb2.Job]:
    from phalanx.v1 import job_pb2  # noqa: PLC0415

    if not names:
        return list(client.jobs.ListJobs(job_pb2.ListJobsRequest(), timeout=CALL_TIMEOUT_S).jobs)
    return [client.jobs.GetJob(job_pb2.GetJobRequest(name=name), timeout=CALL_TIMEOUT_S).job for name in names]


def _nodes(client: Client, names: list[str]) -> list[fleet_pb2.Node]:
    from phalanx.v1 import fleet_pb2  # noqa: PLC0415

    if not names:
        return list(client.fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=CALL_TIMEOUT_S).nodes)
    return [client.fleet.GetNode(fleet_pb2.GetNodeRequest(name=name), timeout=CALL_TIMEOUT_S).node for name in names]


def _checkpoints(client: Client, job: str, names: list[str]) -> list[checkpoint_pb2.Checkpoint]:
    from phalanx.v1 import checkpoint_pb2  # noqa: PLC0415

    request = checkpoint_pb2.ListCheckpointsRequest(job=job)
    found = list(client.checkpoints.ListCheckpoints(request, timeout=CALL_TIMEOUT_S).checkpoints)
    missing = set(names) - {item.id for item in found}
    if missing:
        raise CliError(f"no checkpoint {', '.join(sorted(missing))}", code=Exit.NOT_FOUND)
    return [item for item in found if not names or item.id in names]


def _get_site(client: Client, output: Output) -> None:
    from phalanx.v1 import fleet_pb2  # noqa: PLC0415

    site = client.fleet.GetSite(fleet_pb2.GetSiteRequest(), timeout=CALL_TIMEOUT_S)
    if output in (Output.JSON, Output.YAML):
        render.document(plain(site), output.value)
    elif output is Output.NAME:
        render.out(client.address)
    else:
        descriptions.site(site, client.address)
    problems = [
        text
        for text, bad in (
            (f"the journal: {site.journal_state}", site.journal_state not in ("", "ok")),
            (f"the detector lags {site.loop_lag_s:.2f} s behind", site.detector_degraded),
        )
        if bad
    ]
    if problems:
        raise CliError("the controller is degraded", why="; ".join(problems), code=Exit.DEGRADED)


JOB_COLUMNS = ("NAME", "STATE", "STEP", "LOSS", "GEN", "RANKS", "ETTR", "RESTARTS", "REMARK")
NODE_COLUMNS = ("NAME", "SERVICE", "LIVENESS", "CELL", "ACCELERATORS", "RACK", "BEAT", "JOBS", "CORDONS")
CHECKPOINT_COLUMNS = ("ID", "JOB", "STEP", "GEN", "STATE", "FILES", "SIZE", "PINNED", "REMARK")


def _job_row(job: job_pb2.Job) -> list[str]:
    total = render.total_steps(job)
    return [
        job.name,
        render.job_state(job),
        f"{job.step}/{total}" if total else str(job.step),
        render.loss(job.loss),
        str(job.generation),
        str(job.spec.ranks),
        f"{job.ettr:.3f}",
        str(sum(job.restarts.values())),
        job.blocker or job.end_reason,
    ]


def _node_row(node: fleet_pb2.Node) -> list[str]:
    from phalanx.v1 import types_pb2  # noqa: PLC0415

    healthy = sum(item.state == types_pb2.ACCELERATOR_STATE_HEALTHY for item in node.accelerators)
    return [
        node.name,
        enum_word(types_pb2.NodeService, node.service),
        enum_word(types_pb2.NodeLiveness, node.liveness),
        "yes" if node.cell_member else "no",
        f"{healthy}/{len(node.accelerators)}",
        node.labels.get("rack", "-"),
        render.seconds(node.last_beat_age_s),
        ",".join(node.jobs) or "-",
        "; ".join(f"{item.owner}: {item.reason}" for item in node.cordons) or "-",
    ]


def _checkpoint_row(item: checkpoint_pb2.Checkpoint) -> list[str]:
    from phalanx.v1 import types_pb2  # noqa: PLC0415

    return [
        item.id,
        item.job,
        str(item.step),
        str(item.generation),
        enum_word(types_pb2.CheckpointState, item.state),
        str(item.files),
        render.count_bytes(item.bytes),
        "yes" if item.pinned else "no",
        item.reason,
    ]
