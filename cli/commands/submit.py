"""From a manifest to a job: submit, diff, and explain for what a manifest may say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from cli import render
from cli.client import CALL_TIMEOUT_S, SUBMIT_TIMEOUT_S, Client, Refused, new_request_id
from cli.code import PackedFolder, is_shipped, upload
from cli.durations import Timeout, Wait
from cli.errors import CliError, Exit
from cli.grammar import Argument, CommandEnd, Group, Option
from cli.manifest_file import ManifestFile, read_manifest
from cli.options import Output, OutputForm, SiteChoice, for_site
from cli.wire import plain, spec_to_message, spec_value

if TYPE_CHECKING:
    from phalanx.v1 import job_pb2

    from cli.schema_field import Field

DEFAULT_WAIT_S = 86_400.0

FileArgument = Annotated[str, Argument(metavar="[FILE]", help="The same as --file.")]
FileOption = Annotated[str, Option("--file", "-f", help="Manifest (YAML); `-` reads standard input.")]


def register(app: Group) -> None:
    """Adds the commands."""
    app.command(epilog="Example: phalanx submit -f job.yaml --dry-run")(submit)
    app.command(epilog="Example: phalanx diff -f job.yaml")(diff)
    app.command(epilog="Example: phalanx explain trainingjob.spec.spares")(explain)


@for_site
def submit(
    manifest_file: FileArgument = "",
    *,
    file: FileOption = "",
    dry_run: Annotated[bool, Option("--dry-run", help="Show the plan, but store nothing.")] = False,
    wait: Wait = False,
    timeout: Timeout = DEFAULT_WAIT_S,
    output: OutputForm = Output.TABLE,
    site: SiteChoice,
) -> None:
    """Submit a job, or show the plan with --dry-run.

    With --wait the exit code tells how it ended: 0 succeeded, 1 not, 6 time-out.
    """
    manifest = read_manifest(_one_file(manifest_file, file))
    with site.connect() as client:
        if manifest.code is not None:
            ship(client, manifest.code, dry_run=dry_run)
        answer = _submit(client, manifest, dry_run=dry_run)
        for remark in manifest.placed(answer.warnings):
            render.note(f"warning: {remark}")
        if output in (Output.JSON, Output.YAML):
            render.document(plain(answer), output.value)
        elif output is Output.NAME:
            render.out(answer.name)
        else:
            _show_answer(client, answer, dry_run=dry_run)
        if wait and not dry_run:
            from cli.progress import ended_well, follow  # noqa: PLC0415

            ended_well(follow(client, answer.name, timeout), quiet=output not in (Output.TABLE, Output.WIDE))


def ship(client: Client, code: PackedFolder, *, dry_run: bool) -> None:
    """Uploads a folder of code that the site does not have; a dry run leaves nothing there and says what that means."""
    what = f"{code.folder}: {code.files} file{'s' * (code.files != 1)}, {code.digest}"
    if not dry_run and upload(client.code, code):
        render.note(f"shipped {what}")
    elif dry_run and not is_shipped(client.code, code):
        render.note(f"would ship {what}; what it imports is checked when it is shipped, before the job is stored")


def _one_file(argument: str, option: str) -> str:
    if bool(argument) == bool(option):
        raise CliError("name one manifest", fix="pass -f job.yaml, or -f - for standard input", code=Exit.USAGE)
    return argument or option


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


# --- the plan --------------------------------------------------------------------------------------------------------


def _show_answer(client: Client, answer: job_pb2.SubmitJobResponse, *, dry_run: bool) -> None:
    """What happened or would: with --dry-run where every rank goes; and always what the job waits for."""
    if dry_run:
        render.out(f"{answer.name} would be accepted")
        if answer.placement:
            _show_placement(answer, _racks(client))
        render.out(f"it would not start yet: {answer.blocker}" if answer.blocker else "it would start at once")
        return
    render.out(f"{answer.name} submitted ({answer.uid})")
    if answer.blocker:
        render.out(f"it does not start yet: {answer.blocker}")
    else:
        nodes = len({rank.node for rank in answer.placement})
        render.out(f"{len(answer.placement)} ranks start on {nodes} node{'s' * (nodes != 1)}")


def _show_placement(answer: job_pb2.SubmitJobResponse, racks: Mapping[str, str]) -> None:
    ranks: dict[str, list[int]] = {}
    devices: Counter[str] = Counter()
    for rank in answer.placement:
        ranks.setdefault(rank.node, []).append(rank.rank)
        devices[rank.node] += len(rank.accelerators)
    rows = [
        [racks.get(node, "-"), node, spans(held), str(devices[node])]
        for node, held in sorted(ranks.items(), key=lambda item: (racks.get(item[0], "-"), item[1][0]))
    ]
    rows += [[racks.get(node, "-"), node, "spare", "all"] for node in answer.spare_nodes]
    render.table(("RACK", "NODE", "RANKS", "ACCELERATORS"), rows)
    used = {racks.get(node, "-") for node in ranks}
    render.out(
        f"{len(answer.placement)} ranks on {len(ranks)} node{'s' * (len(ranks) != 1)} in {len(used)} "
        f"rack{'s' * (len(used) != 1)}, {len(answer.spare_nodes) or 'no'} spare node{'s' * (len(answer.spare_nodes) != 1)}"
    )


def _racks(client: Client) -> dict[str, str]:
    from cli.kinds import nodes  # noqa: PLC0415

    found = nodes(client, full=False)
    return dict(zip(found.names, found.table["RACK"], strict=True))


def spans(numbers: list[int]) -> str:
    """Sorted numbers as a person writes them: `0-3,7`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


# --- diff ------------------------------------------------------------------------------------------------------------


@for_site
def diff(manifest_file: FileArgument = "", *, file: FileOption = "", site: SiteChoice) -> None:
    """Compare a manifest with what the controller runs, field by field.

    Exit code 0: the same; 1: they differ; 3: there is no such job.
    """
    from phalanx.v1 import job_pb2  # noqa: PLC0415

    from cli.manifest_diff import compare  # noqa: PLC0415
    from controlplane.core.manifest import spec_to_document  # noqa: PLC0415

    manifest = read_manifest(_one_file(manifest_file, file))
    with site.connect() as client:
        job = client.jobs.GetJob(job_pb2.GetJobRequest(name=manifest.spec.name), timeout=CALL_TIMEOUT_S).job
    runs, wanted = spec_to_document(spec_value(job.spec)), spec_to_document(manifest.spec)
    changes = compare(runs, wanted)
    if not changes:
        render.note(f"{job.name} ({render.job_state(job)}) is as {manifest.name} says")
        return
    for change in changes:
        render.out(change.line())
    render.note(f"{len(changes)} field{'s' * (len(changes) != 1)} of {job.name} ({render.job_state(job)}) differ")
    raise CommandEnd(Exit.ERROR)


# --- explain ---------------------------------------------------------------------------------------------------------


def _paths(incomplete: str) -> list[str]:
    from cli.schema import ROOT, walk  # noqa: PLC0415

    return [path for path, _ in walk(ROOT, "trainingjob") if path.startswith(incomplete.lower() or "trainingjob")]


def explain(
    path: Annotated[
        str, Argument(metavar="[PATH]", help="A field: trainingjob.spec.spares.", autocompletion=_paths)
    ] = "trainingjob",
    *,
    recursive: Annotated[bool, Option("--recursive", "-r", help="All fields below it.")] = False,
    output: Annotated[
        str, Option("--output", "-o", metavar="FORM", help="`schema`: the JSON schema for editors.")
    ] = "",
) -> None:
    """Explain the fields of a manifest: type, default and meaning."""
    from cli.schema import field_at, json_schema, walk  # noqa: PLC0415

    if output == "schema":
        render.document(json_schema(), "json")
        return
    if output:
        raise CliError(f"there is no form `{output}`", fix="use -o schema, or none", code=Exit.USAGE)
    found = field_at(path)
    render.fields(
        (
            ("field", path),
            ("type", found.kind),
            ("default", found.default_text),
            ("one of", ", ".join(found.choices)),
            ("example", found.example),
        )
    )
    render.out()
    render.out(found.meaning)
    below: list[tuple[str, Field]] = [
        (name, one) for name, one in walk(found, "") if name and (recursive or "." not in name)
    ]
    if below:
        render.heading("fields:")
        render.table(
            ("NAME", "TYPE", "DEFAULT", "MEANING"),
            [[name, one.kind, one.default_text or "-", one.meaning] for name, one in below],
        )
