"""Effective training time, simulated: of a site that you describe, and the report with all figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cli import render
from cli.errors import CliError, Exit
from cli.grammar import Argument, Group, Option
from cli.options import Output, OutputForm

if TYPE_CHECKING:
    from controlplane.sim.ettr.phases import Phases
    from controlplane.sim.ettr.policies import World
    from controlplane.sim.ettr.runner import Runner
    from controlplane.sim.ettr.tables import Table

MAX_NODES = 20_000
FEWEST_RUNS = 2
"""One run has no interval."""


def add_to(group: Group) -> None:
    """Adds the commands to `phalanx sim`."""
    group.command(epilog="Example: phalanx sim ettr --nodes 512 --rate 3.8 --days 30")(ettr)
    group.command(epilog="Example: phalanx sim report ettr.html --quick")(report)


Jobs = Annotated[int, Option("--jobs", min=0, max=256, help="Processes; 0: one for each core.")]


def ettr(
    *,
    nodes: Annotated[int, Option(min=1, max=MAX_NODES, help="Nodes of the job, 8 accelerators each.")] = 6250,
    pool: Annotated[int, Option(min=-1, max=MAX_NODES, help="Nodes beside the job; -1: 5 % of it, at least one.")] = -1,
    rate: Annotated[float, Option(min=0.01, max=1000.0, help="Job-stopping failures per 1,000 node-days.")] = 3.8,
    days: Annotated[float, Option(min=0.1, max=3650.0, help="Simulated days of each run.")] = 14.0,
    runs: Annotated[int, Option(min=FEWEST_RUNS, max=1000, help="Runs under different chance.")] = 4,
    seed: Annotated[int, Option(min=0, help="Seed of the first run; the others follow.")] = 1,
    phases: Annotated[Path | None, Option(help="Durations of your own: recovery_phases.toml as shipped.")] = None,
    policy: Annotated[Path | None, Option(help="TOML with [spares], [saving], [weather], [repairs].")] = None,
    jobs: Jobs = 0,
    output: OutputForm = Output.TABLE,
) -> None:
    """Simulate one synchronous job on a site of your size: the controller's real decisions under your failures.

    Prints the productive share of time for short, expected and long recovery phases, each with its 95 % interval.
    """
    from dataclasses import replace  # noqa: PLC0415

    from controlplane.sim.ettr.own_site import own_table, plans_of, worlds_of  # noqa: PLC0415

    spare = pool if pool >= 0 else max(1, round(nodes * 0.05))
    worlds = {
        column: replace(_with_policy(world, policy), pool=spare)
        for column, world in worlds_of(_phases(phases), nodes, rate).items()
    }
    try:
        plans = plans_of(worlds, nodes, days, range(seed, seed + runs))
    except ValueError as error:
        raise CliError("nothing was simulated", why=str(error), code=Exit.USAGE) from error
    with _runner(jobs) as runner:
        outcomes = runner.run("simulating", [plan for group in plans.values() for plan in group])
    grouped = {column: outcomes[i * runs : (i + 1) * runs] for i, column in enumerate(plans)}
    show([own_table(plans, grouped, rate)], output)


def report(
    file: Annotated[Path, Argument(help="The HTML file to write.")],
    *,
    quick: Annotated[bool, Option("--quick", help="Fewer and shorter runs: about a minute instead of twenty.")] = False,
    charts: Annotated[Path | None, Option(help="Folder for the charts as PNG and SVG.")] = None,
    seed: Annotated[int, Option(min=0, help="Seed of the first run; the others follow.")] = 1,
    jobs: Jobs = 0,
) -> None:
    """Simulate all figures of effective training time and write them as one HTML file with charts."""
    from controlplane.sim.ettr import figures  # noqa: PLC0415
    from controlplane.sim.ettr.campaign import FULL, QUICK, Campaign  # noqa: PLC0415
    from controlplane.sim.ettr.charts import NoCharts, save  # noqa: PLC0415
    from controlplane.sim.report import html  # noqa: PLC0415

    if not file.resolve().parent.is_dir():
        raise CliError(f"there is no folder {file.resolve().parent}", fix="create it first", code=Exit.NOT_FOUND)
    if file.is_dir():
        raise CliError(f"{file} is a folder", fix=f"name the file to write: {file / 'ettr.html'}", code=Exit.USAGE)
    try:
        file.touch()
    except OSError as error:
        raise CliError(f"{file} cannot be written", why=str(error.strerror), code=Exit.USAGE) from error
    with _runner(jobs) as runner:
        found = figures.collect(Campaign(_phases(None), QUICK if quick else FULL, runner, seed))
    file.write_text(html(figures.TITLE, found.lines, found.tables, found.charts), encoding="utf-8")
    render.note(f"written to {file}")
    for chart in found.charts if charts else ():
        try:
            render.note("written to " + ", ".join(map(str, save(chart, charts or Path()))))
        except NoCharts as error:
            raise CliError("no charts were drawn", why=str(error)) from error


@contextmanager
def _runner(jobs: int) -> Iterator[Runner]:
    from cli.ettr_progress import RunsProgress  # noqa: PLC0415
    from controlplane.sim.ettr.runner import Runner  # noqa: PLC0415

    progress = RunsProgress()
    try:
        with Runner(jobs, progress.show) as runner:
            yield runner
    finally:
        progress.close()


def _phases(file: Path | None) -> Phases:
    from controlplane.sim.ettr.phases import BadPhases, load, parse  # noqa: PLC0415

    if file is None:
        return load()
    try:
        return parse(_text(file), str(file))
    except BadPhases as error:
        raise CliError("nothing was simulated", why=str(error), code=Exit.USAGE) from error


def _with_policy(world: World, file: Path | None) -> World:
    from controlplane.sim.ettr.policy_file import BadPolicy, apply  # noqa: PLC0415

    if file is None:
        return world
    try:
        return apply(world, _text(file), str(file))
    except BadPolicy as error:
        raise CliError("nothing was simulated", why=str(error), code=Exit.USAGE) from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise CliError(f"{file} cannot be read", why=str(error.strerror), code=Exit.NOT_FOUND) from error
    except UnicodeDecodeError as error:
        raise CliError(
            f"{file} cannot be read", why=f"it is not UTF-8 at byte {error.start}", code=Exit.USAGE
        ) from error


def show(tables: list[Table], output: Output) -> None:
    """Tables for a person, or as plain values."""
    if output in (Output.JSON, Output.YAML):
        render.document([_plain(table) for table in tables], output.value)
        return
    for table in tables:
        render.heading(table.caption)
        render.table(table.headers, table.rows)
        if table.note:
            render.out(table.note)


def _plain(table: Table) -> dict[str, Any]:
    rows = [dict(zip(table.headers, row, strict=True)) for row in table.rows]
    return {"key": table.key, "title": table.title, "simulated": table.simulated, "rows": rows, "note": table.note}
