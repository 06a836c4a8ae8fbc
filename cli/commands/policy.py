"""What decides: a site's numbers, and restart rules, tried on what has happened before they are used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from cli import render
from cli.client import Client
from cli.commands import policy_site
from cli.completing import job_names
from cli.errors import CliError, Exit
from cli.grammar import Argument, CommandEnd, Group, Option
from cli.manifest_file import read_policy
from cli.options import Output, OutputForm, SiteChoice, for_site
from cli.since import Since, parse_since

if TYPE_CHECKING:
    from controlplane.core.records import Record
    from controlplane.core.recovery.backtest import Change, Judged, Report
    from controlplane.core.recovery.prices import Price

READ_TIMEOUT_S = 600.0
ALL = Since()


def register(app: Group) -> None:
    """Adds the group."""
    group = Group("What decides: the site's numbers, and restart rules tried on what has happened.")
    app.add_group(group, name="policy")
    group.command(epilog="Example: phalanx policy backtest rules.yaml --job moe")(backtest)
    policy_site.add_to(group)


@for_site
def backtest(
    file: Annotated[str, Argument(metavar="FILE", help="A manifest, or a YAML file with `restartPolicy`; `-`: stdin.")],
    *,
    job: Annotated[str, Option(help="Only verdicts about this job.", autocompletion=job_names)] = "",
    since: Annotated[
        Since, Option(parser=parse_since, metavar="WHEN", help="Only verdicts after a revision, a time, or for 2h.")
    ] = ALL,
    output: OutputForm = Output.TABLE,
    site: SiteChoice,
) -> None:
    """Judge recorded history anew under the rules of a file, and show each verdict that changes, with both reasons and what
    both cost in accelerator-seconds.

    Nothing is changed. Exit code 0: no verdict changes; 1: some do; 3: history does not reach back far enough.
    """
    from controlplane.core.recovery import backtest as trial  # noqa: PLC0415
    from controlplane.sim.rung_times import published  # noqa: PLC0415

    policy, warnings = read_policy(file)
    for warning in warnings:
        render.note(f"warning: {warning}")
    with site.connect() as client:
        history = read_history(client, trial.TYPES)
        report = trial.backtest(
            history, policy, job=job, since=since.revision, since_ns=since.at_ns, published=published()
        )
    _show(report, output)
    if report.incomplete:
        names = ", ".join(report.incomplete[:8])
        raise CliError(
            f"history does not reach back to the beginning of {names}",
            why="older records were removed from the journal and its archive",
            fix="name a younger job with --job, or keep decisions longer",
            code=Exit.NOT_FOUND,
        )
    if job and not report.judged:
        render.note(f"no verdict about {job} is in the history" + (f" since {since.text}" if since.text else ""))
    if report.changes:
        raise CommandEnd(Exit.ERROR)


def read_history(client: Client, types: tuple[str, ...]) -> Iterator[tuple[int, int, Record]]:
    """(revision, Unix ns, record) of the types, oldest first, as the site has stored them."""
    from phalanx.v1 import event_pb2  # noqa: PLC0415

    from controlplane.core.records import UnknownRecord, decode  # noqa: PLC0415

    request = event_pb2.ReadHistoryRequest(types=types)
    for page in client.events.ReadHistory(request, timeout=READ_TIMEOUT_S):
        for record in page.records:
            try:
                yield record.revision, record.at_unix_ns, decode(record.type, record.version, record.body_json)
            except UnknownRecord as error:
                raise CliError(
                    f"revision {record.revision} cannot be read",
                    why=str(error),
                    fix="use the site's version of phalanx",
                ) from error


def _show(report: Report, output: Output) -> None:
    match output:
        case Output.JSON | Output.YAML:
            render.document(asdict(report), output.value)
        case Output.NAME:
            render.lines(str(change.revision) for change in report.changes)
        case _:
            for change in report.changes:
                _show_change(change)
            _show_total(report)
            count = len(report.changes)
            render.note(
                f"{report.judged} verdict{'s' * (report.judged != 1)} judged anew, {count or 'none'} would change"
            )


def _show_change(change: Change) -> None:
    render.out(f"revision {change.revision}, {change.job}")
    render.out(f"  was:      {_verdict(change.was)}")
    render.out(f"            {_cost(change.cost_was, change.was)}")
    render.out(f"  would be: {_verdict(change.would_be)}")
    render.out(f"            {_cost(change.cost_would_be, change.would_be)}")
    if change.ends:
        render.out("  later verdicts of this job are not judged: it would not have gone on")


def _cost(price: Price | None, judged: Judged) -> str:
    if price is None:
        return "costs: the job ends" if judged.rung == "FAIL" else "costs: the job stands still until somebody acts"
    if price.low == price.high:
        return f"cost {price.expected:,.0f} accelerator-s ({price.source})"
    return f"costs {price.expected:,.0f} accelerator-s, {price.low:,.0f} to {price.high:,.0f} ({price.source})"


def _show_total(report: Report) -> None:
    """What all changes together would have saved or cost, where both sides have a price."""
    both = [(c.cost_was, c.cost_would_be) for c in report.changes if c.cost_was and c.cost_would_be]
    if not both:
        return
    low = sum(after.low - before.high for before, after in both)
    expected = sum(after.expected - before.expected for before, after in both)
    high = sum(after.high - before.low for before, after in both)
    render.note(
        f"in all {expected:+,.0f} accelerator-s, between {low:+,.0f} and {high:+,.0f}, for the {len(both)} that have two prices"
    )


def _verdict(judged: Judged) -> str:
    parts = [
        f"{judged.rung} charged to {judged.ledger}" if not judged.refused else judged.rung,
        judged.restore,
        judged.nodes,
    ]
    return f"{', '.join(part for part in parts if part)}: {judged.reason} [{judged.rule}]"
