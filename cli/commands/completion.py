"""`phalanx completion`: the script that a shell needs to complete commands, options and names."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated

from cli.grammar import Argument, Group


class Shell(StrEnum):
    """Shells that are known."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def register(app: Group) -> None:
    """Adds the command."""
    app.command(epilog='Example: eval "$(phalanx completion bash)"')(completion)


def completion(shell: Annotated[Shell, Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Print the completion script of a shell; its first start-up file is the place to evaluate it."""
    from cli.__main__ import COMPLETION_VARIABLE, build  # noqa: PLC0415
    from cli.completing import answer_shell  # noqa: PLC0415

    os.environ[COMPLETION_VARIABLE] = f"{shell.value}_source"  # how click is asked for it
    answer_shell(build)
