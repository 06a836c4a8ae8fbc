"""`phalanx`: the operators' command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from cli import render
from cli.commands import demo, event, fault, job, node, resource, site
from cli.errors import CliError, Exit


def build() -> typer.Typer:
    """The whole command tree."""
    app = typer.Typer(
        name="phalanx",
        help="Keep very large training runs alive on hardware that fails.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for module in (site, job, resource, event, node, fault, demo):
        module.register(app)
    return app


def run(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code."""
    try:
        build()(args=list(arguments), prog_name="phalanx")
    except CliError as error:
        render.failure(error)
        return int(error.code)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(Exit.OK if end.code is None else Exit.ERROR)
    return int(Exit.OK)


def main() -> None:
    """Entry point of the `phalanx` script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
