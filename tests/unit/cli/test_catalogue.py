"""The table of commands says what the modules have, and loads nothing."""

import subprocess
import sys

import pytest

from cli.__main__ import build
from cli.catalogue import COMMANDS, GROUPS, overview

MODULES = sorted({entry.module for entry in COMMANDS.values()})


@pytest.mark.parametrize("module", MODULES)
def test_every_command_of_a_module_is_in_the_table(module: str) -> None:
    names = [entry.name for entry in COMMANDS.values() if entry.module == module]
    assert set(build(*names).click.commands) == set(names)


def test_the_overview_names_every_command_once() -> None:
    assert sum(map(len, GROUPS.values())) == len(COMMANDS)
    lines = overview().splitlines()
    for entry in COMMANDS.values():
        assert [line for line in lines if line.split()[:1] == [entry.name]] == [
            line for line in lines if entry.summary in line
        ]


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], [], ["frobnicate"], ["--version"]])
def test_the_overview_needs_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys; from cli.__main__ import run; run(sys.argv[1:])\n"
        "print([m for m in ('click', 'typer', 'grpc', 'yaml', 'rich', 'numpy', 'google', 'cli.client') if m in sys.modules])"
    )
    done = subprocess.run((sys.executable, "-c", script, *arguments), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
