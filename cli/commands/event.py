"""Events, and why things are as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cli import render
from cli.client import CALL_TIMEOUT_S
from cli.completing import job_names, names_of_kind, node_names
from cli.errors import Exit
from cli.following import watch_events
from cli.grammar import Argument, Group, Option
from cli.kinds import kind_named
from cli.options import Output, OutputForm, SiteChoice, for_site
from cli.wire import plain

if TYPE_CHECKING:
    from phalanx.v1 import event_pb2

KINDS = ("job", "node", "rank", "checkpoint")


def register(app: Group) -> None:
    """Adds the commands."""
    app.command(epilog="Example: phalanx events --job moe -f")(events)
    app.command(epilog="Example: phalanx why rank moe/3")(why)


@for_site
def events(
    *,
    follow: Annotated[bool, Option("--follow", "-f", help="Go on with new events.")] = False,
    job: Annotated[str, Option(help="Only of this job.", autocompletion=job_names)] = "",
    node: Annotated[str, Option(help="Only of this node.", autocompletion=node_names)] = "",
    since: Annotated[int, Option(min=0, metavar="REV", help="Only after this revision.")] = 0,
    limit: Annotated[int, Option(min=0, help="At most this many, the newest; 0: 200.")] = 0,
    output: OutputForm = Output.TABLE,
    site: SiteChoice,
) -> None:
    """List events of the journal, oldest first. With -f and -o json: one object a line."""
    from phalanx.v1 import event_pb2  # noqa: PLC0415

    def line(event: event_pb2.Event) -> str:
        match output:
            case Output.JSON:
                return render.json_line(plain(event))
            case Output.NAME:
                return str(event.revision)
            case _:
                return render.event_line(event)

    with site.connect() as client:
        request = event_pb2.ListEventsRequest(after_revision=since, job=job, node=node, limit=limit)
        answer = client.events.ListEvents(request, timeout=CALL_TIMEOUT_S)
        if output is Output.YAML or (output is Output.JSON and not follow):
            render.document([plain(event) for event in answer.events], output.value)
        else:
            render.lines(map(line, answer.events))
        if follow:
            for event in watch_events(client, answer.revision, job=job, node=node):
                render.out(line(event))


@for_site
def why(
    kind: Annotated[
        str, Argument(metavar="KIND", help="job, node, rank or checkpoint.", autocompletion=lambda: list(KINDS))
    ],
    name: Annotated[str, Argument(metavar="NAME", help="Its name; a rank is JOB/RANK.", autocompletion=names_of_kind)],
    *,
    output: OutputForm = Output.TABLE,
    site: SiteChoice,
) -> None:
    """Say why something is as it is: decisions, rules tried, budgets read, evidence."""
    from phalanx.v1 import event_pb2  # noqa: PLC0415

    from cli.commands.resource import rank_named  # noqa: PLC0415
    from cli.errors import CliError  # noqa: PLC0415

    wanted = kind if kind in KINDS else kind_named(kind, tuple(f"{one}s" for one in KINDS)).removesuffix("s")
    if wanted == "rank":
        rank_named(name)
    if output is Output.NAME:
        raise CliError("an explanation has no name", fix="use -o table, json or yaml", code=Exit.USAGE)
    with site.connect() as client:
        subject = event_pb2.SubjectKind.Value(f"SUBJECT_KIND_{wanted.upper()}")
        answer = client.events.Explain(event_pb2.ExplainRequest(kind=subject, name=name), timeout=CALL_TIMEOUT_S)
    if output in (Output.JSON, Output.YAML):
        render.document(plain(answer), output.value)
        return
    render.lines([answer.summary])
    render.lines(f"  {render.event_line(event)}" for event in answer.chain)
    for decision in answer.decisions:
        _show_decision(decision)
    if answer.changes:
        render.heading("what would have to change:")
        render.lines(f"  {change}" for change in answer.changes)


def _show_decision(decision: event_pb2.Decision) -> None:
    render.heading(f"revision {decision.revision}: {decision.verdict}")
    ids = ", ".join(map(str, decision.evidence_ids))
    for title, texts in (
        ("rules", decision.rules),
        ("rungs", decision.rungs),
        ("budgets", decision.budgets),
        (f"evidence (revisions {ids})" if ids else "evidence", decision.evidence),
    ):
        if texts:
            render.out(f"  {title}:")
            render.lines(f"    {text}" for text in texts)
