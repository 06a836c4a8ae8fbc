"""The simulator on this machine: one scenario, one seed again, or many seeds. No site is asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cli import render
from cli.commands import sim_ettr
from cli.durations import parse_seconds
from cli.errors import CliError, Exit
from cli.grammar import Argument, CommandEnd, Group, Option
from cli.seeds import seed_span, versioned_seed

if TYPE_CHECKING:
    from controlplane.sim.swarm.results import SeedResult

DEFAULT_FOLDER = Path(".phalanx/sim")


Seed = Annotated[
    int, Option("--seed", parser=versioned_seed, metavar="SEED[@VERSION]", help="What everything random comes from.")
]
Trace = Annotated[bool, Option("--trace", help="Print every record as it became durable.")]


def register(app: Group) -> None:
    """Adds the group."""
    group = Group("Simulate a site: the production decisions in virtual time.")
    app.add_group(group, name="sim")
    group.command(epilog="Example: phalanx sim run docs/scenarios/rack-loss.toml --trace")(run)
    group.command(epilog="Example: phalanx sim replay --seed 1234 --trace")(replay)
    group.command(epilog="Example: phalanx sim sweep --seeds 1-1000 --jobs 2 --time 30m")(sweep)
    sim_ettr.add_to(group)


def run(
    file: Annotated[Path, Argument(metavar="FILE", help="A scenario (docs/simulator.md).")],
    *,
    seed: Seed = 1,
    trace: Trace = False,
) -> None:
    """Run one scenario under every checker. Exit code 1 when an invariant was violated."""
    from controlplane.sim.reading import BadScenario  # noqa: PLC0415
    from controlplane.sim.scenario import load  # noqa: PLC0415
    from controlplane.sim.swarm.run import run_scenario  # noqa: PLC0415

    try:
        scenario = load(str(file))
    except BadScenario as error:
        raise CliError("nothing was simulated", why=str(error), code=Exit.USAGE) from None
    _finish(run_scenario(scenario, seed, on_line=render.out if trace else None))


def replay(*, seed: Seed, trace: Trace = False) -> None:
    """Run one seed of the swarm again, the same to the last record. Exit code 1 when an invariant was violated."""
    from controlplane.sim.scenario import dump  # noqa: PLC0415
    from controlplane.sim.swarm.generate import generate  # noqa: PLC0415
    from controlplane.sim.swarm.run import run_scenario  # noqa: PLC0415

    scenario = generate(seed)
    if trace:
        render.out(dump(scenario))
    _finish(run_scenario(scenario, seed, on_line=render.out if trace else None))


def sweep(
    *,
    seeds: Annotated[range, Option("--seeds", parser=seed_span, metavar="A-B", help="Which seeds.")] = range(1, 1001),
    jobs: Annotated[int, Option("--jobs", min=1, max=256, help="Processes.")] = os.cpu_count() or 1,
    time: Annotated[
        float, Option("--time", parser=parse_seconds, metavar="DURATION", help="Begin no seed after this; 0: no limit.")
    ] = 0.0,
    folder: Annotated[Path, Option(help="Where results go.")] = DEFAULT_FOLDER,
) -> None:
    """Run many random scenarios under every checker and print what they covered. Exit code 1 when one was violated.

    Ctrl-C ends it with what was found so far.
    """
    from cli.sim_progress import SweepProgress  # noqa: PLC0415
    from controlplane.sim.faults import CATALOGUE  # noqa: PLC0415
    from controlplane.sim.swarm import report, results  # noqa: PLC0415
    from controlplane.sim.swarm.results import Total  # noqa: PLC0415
    from controlplane.sim.swarm.run import run_seed  # noqa: PLC0415
    from controlplane.sim.swarm.sweep import sweep as sweep_seeds  # noqa: PLC0415
    from controlplane.sim.version import SIM_VERSION  # noqa: PLC0415

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CliError(f"results cannot go to {folder}", why=str(error.strerror), code=Exit.USAGE) from error
    progress, total, interrupted = SweepProgress(len(seeds), time), Total(), False

    def found(result: SeedResult, so_far: Total) -> None:
        nonlocal total
        total = so_far
        progress.show(result, so_far)

    try:
        sweep_seeds(iter(seeds), run_seed, jobs=jobs, limit_s=time or float("inf"), on_result=found)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        progress.close()
    about = {"sim_version": SIM_VERSION, "seeds": [seeds.start, seeds.stop - 1], "simulated": True}
    render.out(report.render(total, CATALOGUE))
    render.note(f"written to {results.write(folder, total, about)}")
    if interrupted:
        render.note(f"interrupted: {total.seeds:,} of {len(seeds):,} seeds had ended")
        raise CommandEnd(Exit.INTERRUPTED)
    if total.violations:
        raise CommandEnd(Exit.ERROR)


def _finish(result: SeedResult) -> None:
    from controlplane.sim.version import SIM_VERSION  # noqa: PLC0415

    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(result.faults.items()))
    render.fields(
        [
            ("seed", f"{result.seed}@{SIM_VERSION}"),
            ("simulated", f"{result.simulated_s / 3600:.1f} h in {render.seconds(result.wall_s)}"),
            ("records", f"{result.records:,}"),
            ("digest", result.digest),
            ("faults", faults or "none"),
            ("violations", "none" if result.clean else "1"),
        ]
    )
    if not result.clean:
        render.out()
        render.out(result.text)
        raise CommandEnd(Exit.ERROR)
