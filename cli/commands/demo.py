"""`phalanx demo`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

from cli.demo.script import DEFAULT_SEED
from cli.grammar import CommandEnd, Group, Option

DEFAULT_FOLDER = Path(".phalanx/demo")


def register(app: Group) -> None:
    """Adds the command."""
    app.command(epilog="Example: phalanx demo --seed 7")(demo)


def demo(
    folder: Annotated[Path, Option(help="Where the site and the report go; replaced at every run.")] = DEFAULT_FOLDER,
    port: Annotated[int, Option(min=1, max=65535, help="The controller's port; another when it is taken.")] = 7711,
    seed: Annotated[int, Option(min=0, max=2**31 - 2, help="Seed of the training and of the faults.")] = DEFAULT_SEED,
) -> None:
    """Train, lose a rank, lose a node, end with the same weights; on a site of its own. Exit code 1 when a claim fails."""
    from cli.demo.story import Demo  # noqa: PLC0415 - imports what only the demo needs

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    raise CommandEnd(Demo(folder, port, seed).run())


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)
