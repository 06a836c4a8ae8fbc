"""`phalanx completion`: the script that a shell needs to complete commands, options and names."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated

import typer


class Shell(StrEnum):
    """Shells that are known."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command(epilog='Example: eval "$(phalanx completion bash)"')(completion)


def completion(shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Print the completion script of a shell; its first start-up file is the place to evaluate it."""
    from cli.__main__ import COMPLETION_VARIABLE, build  # noqa: PLC0415
    from cli.completing import answer_shell  # noqa: PLC0415

    os.environ[COMPLETION_VARIABLE] = f"source_{shell.value}"  # how typer is asked for it
    answer_shell(build)
