"""What losing part of the site would lead to: the controller's own decisions on its exported state, simulated here."""

from __future__ import annotations

import zlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cli import render
from cli.client import Client
from cli.errors import CliError, Exit
from cli.grammar import Group, Option
from cli.options import Output, OutputForm, SiteChoice, for_site
from cli.status_line import StatusLine

if TYPE_CHECKING:
    from controlplane.core.export import Export
    from controlplane.sim.plan import Lost, Verdict

EXPORT_TIMEOUT_S = 120.0
MAX_EXPORT_BYTES = 1 << 30
SHOWN = 6
"""Names of nodes in one line."""

Selector = tuple[str, str]


def selector(text: str) -> Selector:
    """`rack=r12` as key and value. A ValueError is shown as a usage error."""
    key, sign, value = str(text).partition("=")
    if not (key and sign and value):
        raise ValueError(f"`{text}` names nothing: write rack=r12, node=NAME, or any label of nodes")
    return key, value


def register(app: Group) -> None:
    """Adds the command."""
    app.command(epilog="Example: phalanx plan --lose rack=r12")(plan)


@for_site
def plan(
    *,
    lose: Annotated[
        list[str],
        Option("--lose", metavar="KEY=VALUE", help="rack=r12, node=NAME, switch=..., superpod=...; repeatable."),
    ],
    output: OutputForm = Output.TABLE,
    site: SiteChoice,
) -> None:
    """Show what losing nodes now would lead to: ranks, rung, spares, seconds. Nothing is touched.

    The site's state is exported and decided on here, simulated, by the limits that the controller has. Exit code 7 when a
    job would not come back.
    """
    wanted = [_selector(text) for text in lose]
    with StatusLine() as status:
        with site.connect() as client:
            export = fetch(client, status)
        verdict = decide(export, wanted, status)
    if output in (Output.JSON, Output.YAML):
        render.document(document(verdict), output.value)
    elif output is Output.NAME:
        render.lines(job.job for job in verdict.jobs)
    else:
        show(verdict)
    if not verdict.recovers:
        stuck = ", ".join(job.job for job in verdict.jobs if job.back_s is None)
        raise CliError(f"{stuck} would not come back", why="see WAITS FOR above", code=Exit.DEGRADED)


def _selector(text: str) -> Selector:
    try:
        return selector(text)
    except ValueError as error:
        raise CliError(str(error), code=Exit.USAGE) from error


def fetch(client: Client, status: StatusLine) -> Export:
    """The exported state of the site."""
    from phalanx.v1 import admin_pb2  # noqa: PLC0415

    from controlplane.core.export import Export, UnreadableExport  # noqa: PLC0415

    request = admin_pb2.ExportStateRequest()
    packed = b""
    for part in client.admin.ExportState(request, timeout=EXPORT_TIMEOUT_S):
        packed += part.data
        status.show(f"fetching the site's state: {len(packed) / 1e6:.1f} MB")
    status.show(f"reading the site's state: {len(packed) / 1e6:.1f} MB")
    unpack = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        text = unpack.decompress(packed, MAX_EXPORT_BYTES)  # what is cut, or larger, is no JSON
        return Export.from_json(text.decode())
    except (UnreadableExport, UnicodeDecodeError, zlib.error) as error:
        raise CliError(
            "the exported state cannot be read", why=str(error), fix="compare `phalanx version` of both sides"
        ) from error


def decide(export: Export, wanted: list[Selector], status: StatusLine) -> Verdict:
    """The outcome of losing everything that the selectors name."""
    from controlplane.sim import plan as planning  # noqa: PLC0415

    numbers: set[int] = set()
    for key, value in wanted:
        try:
            numbers.update(planning.select(export.state, key, value))
        except planning.NothingLost as error:
            raise CliError(f"nothing is lost: {error}", code=Exit.NOT_FOUND) from error

    def told(virtual_s: float, settled: int, touched: int) -> None:
        status.show(f"simulating: {virtual_s:.0f} s after the loss, {settled} of {touched} jobs settled")

    return planning.plan(export, sorted(numbers), told)


def document(verdict: Verdict) -> dict[str, Any]:
    """The outcome as plain values."""
    return {"simulated": True, "recovers": verdict.recovers, **asdict(verdict)}


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more if names else "-"


def _row(job: Lost) -> list[str]:
    back = render.seconds(job.back_s) if job.back_s is not None else "-"
    restore = f"step {job.restore_step}, {job.steps_lost} lost" if job.back_s is not None else "-"
    return [job.job, str(job.ranks), job.rung or "-", _some(job.spares), restore, back, job.state]


def show(verdict: Verdict) -> None:
    """The outcome for a person."""
    count = len(verdict.nodes)
    render.out(
        f"Simulated: {count} node{'s' * (count != 1)} ({verdict.accelerators} accelerators) lost at once: "
        f"{_some(verdict.nodes)}"
    )
    if verdict.jobs:
        render.out()
        render.table(
            ("JOB", "RANKS LOST", "RUNG", "ONTO", "RESTORE", "BACK AFTER", "THEN"), [_row(job) for job in verdict.jobs]
        )
    for job in verdict.jobs:
        render.heading(f"{job.job}: {job.reason}")
        for line in job.tried:
            render.out(f"  {line}")
        if job.waits:
            render.out(f"  WAITS FOR: {job.waits}")
    render.heading("What remains")
    remaining = verdict.remaining
    render.fields(
        [
            ("  nodes that take work", str(remaining.nodes)),
            ("  free accelerators", str(remaining.free_accelerators)),
            ("  warm spares", ", ".join(f"{job}: {spares}" for job, spares in remaining.spares.items())),
            ("  jobs not touched", _some(verdict.untouched) if verdict.untouched else ""),
        ]
    )
    render.heading("Durations that were assumed or measured")
    render.fields(
        [(f"  {name}", f"{render.seconds(one.seconds)}  {one.source}") for name, one in verdict.durations.items()]
    )
