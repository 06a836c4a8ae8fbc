"""Destructive commands say what will happen and ask; a script says --yes."""

from __future__ import annotations

import sys
from typing import Annotated

from cli import render
from cli.errors import CliError, Exit
from cli.grammar import Option

Yes = Annotated[bool, Option("--yes", "-y", help="Do not ask. Needed where there is no terminal to ask on.")]


def agreed(*effects: str, yes: bool) -> None:
    """Returns when the person agrees, or has with `--yes`.

    Raises:
        CliError: usage, when there is no terminal to ask on and no --yes; an error when the answer is no. Nothing was
            sent in either case.
    """
    for effect in effects:
        render.note(effect)
    if yes:
        return
    if not sys.stdin.isatty() or not sys.stderr.isatty():
        raise CliError("this must be confirmed", why="there is no terminal to ask on", fix="add --yes", code=Exit.USAGE)
    sys.stderr.write("Go on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CliError("nothing was done", why="you did not say yes")
