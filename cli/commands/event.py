"""Events, and why things are as they are."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import render
from cli.client import CALL_TIMEOUT_S, connect
from cli.errors import CliError, Exit
from cli.following import watch_events
from cli.options import DEFAULT_DIRECTORY, Address, Directory

KINDS = ("job", "node", "rank", "checkpoint")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(events)
    app.command()(why)


def events(
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new events.")] = False,
    job: Annotated[str, typer.Option(help="Only of this job.")] = "",
    node: Annotated[str, typer.Option(help="Only of this node.")] = "",
    since: Annotated[int, typer.Option(min=0, metavar="REV", help="Only after this revision.")] = 0,
    limit: Annotated[int, typer.Option(min=0, help="At most this many, the newest; 0: 200.")] = 0,
    address: Address = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """List events of the journal, oldest first."""
    from phalanx.v1 import event_pb2  # noqa: PLC0415

    with connect(address, directory) as client:
        request = event_pb2.ListEventsRequest(after_revision=since, job=job, node=node, limit=limit)
        answer = client.events.ListEvents(request, timeout=CALL_TIMEOUT_S)
        for event in answer.events:
            render.out(render.event_line(event))
        if follow:
            for event in watch_events(client, answer.revision, job=job, node=node):
                render.out(render.event_line(event))


def why(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="job, node, rank or checkpoint.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name; a rank is JOB/RANK.")],
    address: Address = None,
    directory: Directory = DEFAULT_DIRECTORY,
) -> None:
    """Say why something is as it is: decisions, rules tried, budgets read, evidence."""
    from phalanx.v1 import event_pb2  # noqa: PLC0415

    if kind not in KINDS:
        raise CliError(f"`{kind}` cannot be explained", fix=f"use one of {', '.join(KINDS)}", code=Exit.USAGE)
    job, slash, rank = name.partition("/")
    if kind == "rank" and not (job and slash and rank.isdecimal()):
        raise CliError(f"`{name}` names no rank", fix="write JOB/RANK, for example moe-1/3", code=Exit.USAGE)
    with connect(address, directory) as client:
        request = event_pb2.ExplainRequest(kind=event_pb2.SubjectKind.Value(f"SUBJECT_KIND_{kind.upper()}"), name=name)
        answer = client.events.Explain(request, timeout=CALL_TIMEOUT_S)
        render.out(answer.summary)
        for event in answer.chain:
            render.out("  " + render.event_line(event))
