"""What is broken, and how well that is seen: faults, health."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cli import render
from cli.client import CALL_TIMEOUT_S, Client
from cli.completing import node_names
from cli.durations import parse_seconds
from cli.errors import CliError, Exit
from cli.faults import By
from cli.grammar import Argument, Group, Option
from cli.listing import Selection, show
from cli.names import node_names_of
from cli.options import Output, OutputForm, SiteChoice, for_site

if TYPE_CHECKING:
    from phalanx.v1 import fleet_pb2

DAY_S = 86_400.0


def register(app: Group) -> None:
    """Adds the commands."""
    app.command(epilog="Example: phalanx faults 'node-[1-64]' --by code --since 2h")(faults)
    app.command(epilog="Example: phalanx health")(health)


@for_site
def faults(
    names: Annotated[
        list[str] | None,
        Argument(metavar="[NODE]...", help="Only of these; ranges as node-[1-4,7].", autocompletion=node_names),
    ] = None,
    *,
    since: Annotated[
        float,
        Option(
            parser=parse_seconds,
            metavar="DURATION",
            help="How far back those that do not stand go; 0: only what stands.",
        ),
    ] = DAY_S,
    limit: Annotated[int, Option(min=1, max=5_000, help="At most this many of those that do not stand.")] = 200,
    by: Annotated[By | None, Option(help="Count them instead.")] = None,
    labels: Annotated[str, Option("--selector", "-l", metavar="SELECTOR", help="Labels of the node: rack=r1.")] = "",
    field: Annotated[
        str, Option("--field", metavar="SELECTOR", help="code=XID-79, level, state, vendor, entity.")
    ] = "",
    rules: Annotated[bool, Option("--rules", help="Show the fault tables in force instead.")] = False,
    code: Annotated[str, Option(help="With --rules: only this code.")] = "",
    vendor: Annotated[str, Option(help="With --rules: only this vendor's table.")] = "",
    output: OutputForm = Output.TABLE,
    site: SiteChoice,
) -> None:
    """List faults: what stands, the hardest first, then what began, ended or happened once, the newest first."""
    if not rules and (code or vendor):
        raise CliError(
            "--code and --vendor are for --rules", fix="select faults with --field code=...", code=Exit.USAGE
        )
    from phalanx.v1 import fleet_pb2  # noqa: PLC0415

    nodes = node_names_of(names or ())
    with site.connect() as client:
        if rules:
            _rules(client, fleet_pb2.ListFaultRulesRequest(vendor=vendor, code=code), output)
        else:
            request = fleet_pb2.ListFaultsRequest(nodes=nodes, since_s=since, limit=limit)
            _faults(client, request, Selection((), labels, field), output, by)


def _faults(
    client: Client, request: fleet_pb2.ListFaultsRequest, selection: Selection, output: Output, by: By | None
) -> None:
    from cli.faults import groups, listing  # noqa: PLC0415

    answer = client.fleet.ListFaults(request, timeout=CALL_TIMEOUT_S)
    found = [*answer.standing, *answer.recent]
    listed = listing(found)
    rows = listed.select(selection)
    if answer.standing_total > len(answer.standing):
        shown = f"the hardest {len(answer.standing):,} are here"
        render.note(f"{answer.standing_total:,} faults stand, {shown}: name nodes to see theirs")
    if by is not None and output in (Output.TABLE, Output.WIDE) and rows:
        render.table(*groups((found[row] for row in rows), by))
    else:
        show(listed, rows, output)


def _rules(client: Client, request: fleet_pb2.ListFaultRulesRequest, output: Output) -> None:
    from cli import faults as tables  # noqa: PLC0415
    from cli.wire import plain  # noqa: PLC0415

    answer = client.fleet.ListFaultRules(request, timeout=CALL_TIMEOUT_S)
    if output in (Output.JSON, Output.YAML):
        render.document(plain(answer), output.value)
    elif output is Output.NAME:
        render.lines(f"{rule.vendor}/{rule.code}" for rule in answer.rules)
    else:
        tables.rules(answer, wide=output is Output.WIDE)


@for_site
def health(*, output: OutputForm = Output.TABLE, site: SiteChoice) -> None:
    """Show how well the controller sees: its own lateness, failing saves, the action budget, blind spots, peers that misbehave.

    Exits with 7 when the controller is degraded.
    """
    from phalanx.v1 import fleet_pb2  # noqa: PLC0415

    from cli import health_report  # noqa: PLC0415
    from cli.wire import plain  # noqa: PLC0415

    with site.connect() as client:
        answer = client.fleet.GetHealth(fleet_pb2.GetHealthRequest(), timeout=CALL_TIMEOUT_S)
        offenders = client.fleet.ListOffenders(fleet_pb2.ListOffendersRequest(), timeout=CALL_TIMEOUT_S)
        address = client.address
    if output in (Output.JSON, Output.YAML):
        render.document({**plain(answer), "offenders": plain(offenders)["offenders"]}, output.value)
    elif output is Output.NAME:
        render.out(address)
    else:
        health_report.show(answer, offenders)
    found = health_report.problems(answer)
    if found:
        raise CliError("the controller is degraded", why="; ".join(found), code=Exit.DEGRADED)
