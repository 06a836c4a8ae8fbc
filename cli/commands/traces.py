"""Recoveries of a job, phase by phase."""

from __future__ import annotations

from typing import Annotated

from cli import render
from cli.client import CALL_TIMEOUT_S
from cli.completing import job_names
from cli.grammar import Argument, Group
from cli.options import Output, OutputForm, SiteChoice, for_site
from cli.traces import ended, otlp_document, trace_of_message
from cli.versions import own_version
from controlplane.core.vocabulary import Phase

JobName = Annotated[str, Argument(metavar="JOB", help="Name of the job.", autocompletion=job_names)]


def register(app: Group) -> None:
    """Adds the command."""
    app.command(epilog="Example: phalanx traces moe -o json > moe.otlp.json")(traces)


@for_site
def traces(name: JobName, *, output: OutputForm = Output.TABLE, site: SiteChoice) -> None:
    """Show a job's newest recoveries (at most 256) with the time of each phase in seconds.

    JSON and YAML are OpenTelemetry traces (OTLP), with the identifiers that the controller uses when it exports them.
    """
    from phalanx.v1 import job_pb2  # noqa: PLC0415

    with site.connect() as client:
        job = client.jobs.GetJob(job_pb2.GetJobRequest(name=name), timeout=CALL_TIMEOUT_S).job
    recoveries = ended(job)
    built = [trace_of_message(job, recovery) for recovery in recoveries]
    if output in (Output.JSON, Output.YAML):
        render.document(otlp_document(built, own_version()), output)
    elif output is Output.NAME:
        render.lines(trace.trace_id for trace in built)
    else:
        headers = ["TRACE", "STARTED", "GEN", "RUNG", "TOTAL", *(phase.value.upper() for phase in Phase), "CAUSE"]
        rows = [
            [
                trace.trace_id if output is Output.WIDE else trace.trace_id[:12],
                recovery.started_at,
                str(recovery.generation),
                recovery.rung if recovery.complete else f"{recovery.rung} (overtaken)",
                f"{recovery.total_s:.2f}",
                *(f"{recovery.phases_s[p]:.2f}" if p in recovery.phases_s else "-" for p in Phase),
                recovery.cause,
            ]
            for trace, recovery in zip(built, recoveries, strict=True)
        ]
        render.table(headers, rows)
