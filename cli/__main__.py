"""`phalanx`: the operators' command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from cli.catalogue import COMMANDS, overview
from cli.errors import CliError, Exit

if TYPE_CHECKING:
    from cli.grammar import Group

COMPLETION_VARIABLE = "_PHALANX_COMPLETE"
"""Set by the shell's completion function; see `cli/completing.py`."""


def build(*names: str) -> Group:
    """The command tree with the modules of these commands."""
    from cli.grammar import Group  # noqa: PLC0415 - the overview does without it

    app = Group("Keep very large training runs alive on hardware that fails.")
    for module in dict.fromkeys(COMMANDS[name].module for name in names):
        import_module(f"cli.commands.{module}").register(app)
    return app


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code."""
    try:
        return _dispatch(list(arguments))
    except CliError as error:
        from cli import render  # noqa: PLC0415

        render.failure(error)
        return int(error.code)
    except KeyboardInterrupt:  # before a command had begun
        return int(Exit.INTERRUPTED)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(Exit.OK if end.code is None else Exit.ERROR)


def _dispatch(arguments: list[str]) -> int:
    if COMPLETION_VARIABLE in os.environ:
        from cli.completing import answer_shell  # noqa: PLC0415

        return answer_shell(build)
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help", "help"):
        sys.stdout.write(overview() + "\n")
        return int(Exit.OK)
    if first == "--version":
        from cli.versions import own_version  # noqa: PLC0415

        sys.stdout.write(f"phalanx {own_version()}\n")
        return int(Exit.OK)
    if first not in COMMANDS:
        raise _unknown(first)
    build(first)(arguments)
    return int(Exit.OK)


def _unknown(word: str) -> CliError:
    import difflib  # noqa: PLC0415

    if word.startswith("-"):
        return CliError(
            f"`{word}` stands before the command",
            fix="options follow the command: phalanx get nodes --dir FOLDER",
            code=Exit.USAGE,
        )
    near = difflib.get_close_matches(word, COMMANDS, n=1)
    fix = f"did you mean `phalanx {near[0]}`?" if near else "`phalanx --help` lists the commands"
    return CliError(f"there is no command `{word}`", fix=fix, code=Exit.USAGE)


def main() -> None:
    """Entry point of the `phalanx` script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
