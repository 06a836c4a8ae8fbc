"""Commands that the documentation names exist, with the options that it shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from cli.__main__ import build
from cli.catalogue import COMMANDS

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GLOBAL = {"-h", "--help", "--version", "help"}
FENCE = re.compile(r"^```(?:sh|bash|console)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(phalanx [^`]+)`")


def commands(text: str) -> list[str]:
    """`phalanx ...` lines of a page: in fences (also after a prompt, `&&` or a path) and between back-quotes."""
    lines = [line.strip().removeprefix("$ ") for block in FENCE.findall(text) for line in block.splitlines()]
    parts = [part.strip() for line in lines for part in re.split(r"&&|\|\|?|;", line.split("  #")[0])]
    fenced = [re.sub(r"^\S*/phalanx ", "phalanx ", part) for part in parts]
    found = [part for part in fenced if part.startswith("phalanx ")] + INLINE.findall(FENCE.sub("", text))
    return [" ".join(command.split()) for command in found]


def problem(command: str) -> str:
    """What is wrong with a command line, "" when nothing is."""
    words = [word for word in shlex.split(command.partition(" > ")[0])[1:] if word not in {"...", "…"}]
    if not words or words[0] in GLOBAL or words[0].isupper():
        return ""
    if words[0] not in COMMANDS:
        return f"there is no command {words[0]}"
    found = build(words[0]).click.commands[words[0]]
    name, rest = words[0], words[1:]
    while isinstance(found, click.Group) and rest and not rest[0].startswith("-"):
        if rest[0] not in found.commands:
            return f"{name} has no {rest[0]}"
        name, found, rest = f"{name} {rest[0]}", found.commands[rest[0]], rest[1:]
    options = {name for option in found.params for name in (*option.opts, *option.secondary_opts)} | GLOBAL
    wrong = [word.split("=")[0] for word in rest if re.match(r"--?[a-z]", word) and word.split("=")[0] not in options]
    return f"{name} has no {', '.join(wrong)}" if wrong else ""


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_commands_of_a_page_exist(page: Path) -> None:
    wrong = {command: said for command in commands(page.read_text()) if (said := problem(command))}
    assert not wrong


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("phalanx fly", "there is no command fly"),
        ("phalanx get nodes --fast", "get has no --fast"),
        ("phalanx checkpoints burn moe", "checkpoints has no burn"),
        ("phalanx get nodes -l rack=r1 -o wide", ""),
        ("phalanx checkpoints ls moe", ""),
    ],
)
def test_the_check_sees_what_is_wrong(command: str, said: str) -> None:
    assert problem(command) == said


def test_the_check_finds_commands() -> None:
    text = "see `phalanx top`\n```sh\n$ phalanx up && .venv/bin/phalanx get site   # note\nls\n```\n"
    assert commands(text) == ["phalanx up", "phalanx get site", "phalanx top"]
