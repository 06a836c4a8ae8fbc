"""Look at what there is: get, nodes and describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cli import render
from cli.client import CALL_TIMEOUT_S, Client
from cli.completing import kinds as complete_kinds
from cli.completing import names_of_kind, node_names
from cli.errors import CliError, Exit
from cli.grammar import Argument, Group, Option
from cli.kinds import KINDS, kind_named, listing
from cli.listing import Listing, Selection, show
from cli.names import node_names_of
from cli.options import Output, OutputForm, SiteChoice, for_site

if TYPE_CHECKING:
    from phalanx.v1 import fleet_pb2, job_pb2

DESCRIBE = "describe"
"""The first word of `phalanx nodes describe NODE`; a node of this name is looked at with `phalanx describe node describe`."""
MOST_DESCRIBED = 64
DESCRIBED = ("jobs", "nodes", "checkpoints", "ranks", "site")

Labels = Annotated[
    str, Option("--selector", "-l", metavar="SELECTOR", help="Label selector: rack=r1,pool!=x,zone in (a,b).")
]
Fields = Annotated[str, Option("--field", metavar="SELECTOR", help="Field selector: state=RUNNING,name!=moe.")]
Sort = Annotated[
    str, Option("--sort", metavar="FIELD", help="Order by this field or column; -FIELD: the other way round.")
]
Watch = Annotated[bool, Option("--watch", "-w", help="Go on: print what changes, until interrupted.")]


def register(app: Group) -> None:
    """Adds the commands."""
    app.command(epilog="Example: phalanx get nodes -l rack=r1 --field liveness!=ALIVE -o name")(get)
    app.command(epilog="Example: phalanx nodes 'node-[1-64]' --sort -beat -o wide")(nodes)
    app.command(epilog="Example: phalanx describe rank moe/3")(describe)


@for_site
def get(
    kind: Annotated[str, Argument(metavar="KIND", help=", ".join(KINDS) + ".", autocompletion=complete_kinds)],
    names: Annotated[
        list[str] | None, Argument(metavar="[NAME]...", help="Only these.", autocompletion=names_of_kind)
    ] = None,
    *,
    job: Annotated[str, Option(help="Only checkpoints or events of this job.")] = "",
    labels: Labels = "",
    field: Fields = "",
    sort: Sort = "",
    watch: Watch = False,
    output: OutputForm = Output.TABLE,
    site: SiteChoice,
) -> None:
    """List jobs, nodes, checkpoints, events or identities, or show the site.

    `get site` exits with 7 when the controller is degraded.
    """
    wanted = kind_named(kind)
    if wanted == "site":
        with site.connect() as client:
            _get_site(client, output)
        return
    named = node_names_of(names or ()) if wanted == "nodes" else tuple(names or ())
    _list(site, wanted, Selection(named, labels, field, sort), output, job=job, watch=watch)


@for_site
def nodes(
    names: Annotated[
        list[str] | None,
        Argument(metavar="[describe] [NODE]...", help="Only these; ranges as node-[1-4,7].", autocompletion=node_names),
    ] = None,
    *,
    labels: Labels = "",
    field: Fields = "",
    sort: Sort = "",
    watch: Watch = False,
    output: OutputForm = Output.TABLE,
    site: SiteChoice,
) -> None:
    """List nodes: the same as `get nodes`. `nodes describe NODE...` shows everything about each."""
    words = names or []
    if words and words[0] == DESCRIBE:
        _describe_nodes(site, node_names_of(words[1:]), output)
        return
    _list(site, "nodes", Selection(node_names_of(words), labels, field, sort), output, watch=watch)


def _describe_nodes(site: SiteChoice, names: tuple[str, ...], output: Output) -> None:
    from cli import describe_node  # noqa: PLC0415
    from cli.wire import plain  # noqa: PLC0415

    if not names:
        raise CliError("name a node to describe", fix="phalanx nodes describe NODE", code=Exit.USAGE)
    if len(names) > MOST_DESCRIBED:
        fix = f"at most {MOST_DESCRIBED} at once; `phalanx nodes -o wide` lists more"
        raise CliError(f"{len(names)} nodes are too many to describe", fix=fix, code=Exit.USAGE)
    with site.connect() as client:
        found = [_node(client, name) for name in names]
    if output in (Output.JSON, Output.YAML):
        render.document([plain(item) for item in found], output.value)
        return
    for number, item in enumerate(found):
        if number:
            render.out()
        describe_node.node(item)


def _list(
    site: SiteChoice, kind: str, selection: Selection, output: Output, *, job: str = "", watch: bool = False
) -> None:
    full = output in (Output.JSON, Output.YAML)
    with site.connect() as client:
        if watch:
            from cli.watching import watch_list  # noqa: PLC0415 - not needed by a plain listing

            watch_list(client, kind, selection, output, job)
            return
        found: Listing = listing(client, kind, full=full, job=job)
        show(found, found.select(selection), output)


@for_site
def describe(
    kind: Annotated[str, Argument(metavar="KIND", help="job, node, checkpoint, rank or site.")],
    name: Annotated[str, Argument(metavar="NAME", help="A rank is JOB/RANK.", autocompletion=names_of_kind)] = "",
    *,
    site: SiteChoice,
) -> None:
    """Show everything about one job, node, checkpoint or rank."""
    from cli import describe as descriptions  # noqa: PLC0415
    from cli import describe_node  # noqa: PLC0415

    wanted = kind_named({"rank": "ranks"}.get(kind.lower(), kind), DESCRIBED)
    if (wanted == "site") == bool(name):
        fix = "phalanx describe site" if wanted == "site" else f"phalanx describe {kind} NAME"
        raise CliError("name one thing to describe", fix=fix, code=Exit.USAGE)
    with site.connect() as client:
        match wanted:
            case "jobs":
                descriptions.job(_job(client, name))
            case "nodes":
                describe_node.node(_node(client, name))
            case "checkpoints":
                found = listing(client, wanted, full=True)
                (row,) = found.select(Selection((name,)))
                descriptions.checkpoint(found.messages[row])  # type: ignore[arg-type] # messages of this kind
            case "ranks":
                job, rank = rank_named(name)
                descriptions.rank(_job(client, job), rank)
            case _:
                _get_site(client, Output.TABLE)


def rank_named(name: str) -> tuple[str, int]:
    """Job and number of `JOB/RANK`."""
    job, slash, rank = name.partition("/")
    if not (job and slash and rank.isdecimal()):
        raise CliError(f"`{name}` names no rank", fix="write JOB/RANK, for example moe-1/3", code=Exit.USAGE)
    return job, int(rank)


def _job(client: Client, name: str) -> job_pb2.Job:
    from phalanx.v1 import job_pb2  # noqa: PLC0415

    return client.jobs.GetJob(job_pb2.GetJobRequest(name=name), timeout=CALL_TIMEOUT_S).job


def _node(client: Client, name: str) -> fleet_pb2.Node:
    from phalanx.v1 import fleet_pb2  # noqa: PLC0415

    return client.fleet.GetNode(fleet_pb2.GetNodeRequest(name=name), timeout=CALL_TIMEOUT_S).node


def _get_site(client: Client, output: Output) -> None:
    from phalanx.v1 import fleet_pb2  # noqa: PLC0415

    from cli import describe as descriptions  # noqa: PLC0415
    from cli.wire import plain  # noqa: PLC0415

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
