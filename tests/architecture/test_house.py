"""The rules of the house that no linter knows."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("controlplane", "agents", "cli", "training_jobs")
BANNED_NAMES = {"utils", "common", "helpers", "misc", "util", "helper"}
LIMIT = 700


def tracked() -> list[Path]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listing.splitlines() if (ROOT / line).is_file()]


def sources() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in PRODUCT]


def test_no_room_without_a_name() -> None:
    bad = [p for p in sources() if BANNED_NAMES & {part.removesuffix(".py") for part in p.relative_to(ROOT).parts}]
    assert not bad, f"modules without a subject: {bad}"


def test_files_hold_one_idea() -> None:
    long = [(p, n) for p in sources() if (n := len(p.read_text().splitlines())) > LIMIT]
    assert not long, f"files over {LIMIT} lines: {long}"


def test_only_render_prints() -> None:
    found = []
    for path in sources():
        name = str(path.relative_to(ROOT))
        if name == "cli/render.py" or name.startswith("training_jobs/examples/"):  # what a rank prints is its log
            continue
        found += [
            f"{name}:{node.lineno}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ]
    assert not found, f"print outside cli/render.py: {found}"


def test_core_takes_time_as_an_argument() -> None:
    found = []
    for path in sources():
        if path.relative_to(ROOT).parts[:2] != ("controlplane", "core"):
            continue
        found += [
            f"{path.name}:{node.lineno} .{node.attr}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today", "time", "monotonic"}
        ]
    assert not found, f"clocks in core: {found}"


def test_nothing_names_a_machine() -> None:
    needles = (str(ROOT.parent) + "/", str(Path.home()) + "/")
    found = []
    for path in tracked():
        if (
            path.suffix in {".py", ".md", ".toml", ".proto", ".yaml", ".txt", ".json", ""}
            and path.name != "constraints.txt"
        ):
            text = path.read_text(errors="ignore")
            found += [f"{path.relative_to(ROOT)}: {needle}" for needle in needles if len(needle) > 3 and needle in text]
    assert not found, found


@pytest.mark.parametrize("name", ["agents", "cli", "controlplane", "training_jobs", "phalanx"])
def test_packages_are_ours(name: str) -> None:
    module = __import__(name)
    assert Path(str(module.__file__)).is_relative_to(ROOT)
