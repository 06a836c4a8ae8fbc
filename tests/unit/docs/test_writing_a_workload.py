"""What docs/writing-a-workload.md shows is what training_jobs/examples/charlm runs: the same statements, and the same manifest."""

from __future__ import annotations

import ast
import difflib
import re
import textwrap
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "writing-a-workload.md").read_text()
EXAMPLE = ROOT / "training_jobs" / "examples" / "charlm"
WALK = PAGE.split("## The walk", 1)[1].split("\n## ", 1)[0]
FUNCTIONS = [
    function
    for block in re.findall(r"```python\n(.*?)```", WALK, re.DOTALL)
    for function in ast.parse(textwrap.dedent(block)).body
    if isinstance(function, ast.FunctionDef)
]


def statements(function: ast.FunctionDef) -> list[str]:
    """Its simple statements, without types, docstring and what only paces or prints."""
    found = []
    for node in ast.walk(function):
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            found.append(ast.unparse(ast.Assign([node.target], node.value, lineno=0)))
            continue
        spoken = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
        if spoken or isinstance(node, (ast.Assign, ast.AugAssign, ast.Return)):
            found.append(ast.unparse(node))
    return [line for line in found if not line.startswith(("print(", "time.sleep(", "torch.set_num_threads("))]


@pytest.mark.parametrize("shown", FUNCTIONS, ids=[function.name for function in FUNCTIONS])
def test_the_page_shows_what_runs(shown: ast.FunctionDef) -> None:
    runs = {node.name: node for node in ast.parse((EXAMPLE / "train.py").read_text()).body if hasattr(node, "name")}
    real = runs[shown.name]
    assert isinstance(real, ast.FunctionDef)
    assert sorted(statements(shown)) == sorted(statements(real))


def test_the_sixty_lines_are_the_file_and_not_more() -> None:
    text = (ROOT / "training_jobs" / "examples" / "ddp" / "train.py").read_text()
    assert f"```python\n{text}```" in PAGE
    code = [line for line in text.splitlines() if line.strip() and not line.strip().startswith(("#", '"""'))]
    assert len(code) <= 60


def test_a_script_for_torchrun_needs_two_calls_and_an_import() -> None:
    before = (EXAMPLE / "plain.py").read_text().splitlines()
    after = (ROOT / "training_jobs" / "examples" / "torchrun" / "train.py").read_text().splitlines()
    added = [line[2:].strip() for line in difflib.ndiff(before[4:], after[4:]) if line.startswith(("+ ", "- "))]
    assert [line for line in added if line] == [
        "from agents.rank import script as phalanx",
        "phalanx.step(step, loss.item())",
        "if step % args.save_every == 0:",
        "phalanx.saved(step, args.out)",
    ]
    assert all(line in PAGE for line in added)


def test_the_walk_is_whole() -> None:
    assert [function.name for function in FUNCTIONS] == ["main", "train", "batches", "save", "restore"]
    (manifest,) = re.findall(r"```yaml\n(.*?)```", WALK, re.DOTALL)
    assert yaml.safe_load(textwrap.dedent(manifest)) == yaml.safe_load((EXAMPLE / "job.yaml").read_text())
