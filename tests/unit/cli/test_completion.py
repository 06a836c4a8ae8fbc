"""Completion as shells ask for it: a real bash runs the script; zsh and fish are asked for by their protocol."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_controller import FakeController
from phalanx.v1 import fleet_pb2

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with `phalanx` in it, for PATH."""
    script = tmp_path / "phalanx"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m cli "$@"\n')
    script.chmod(0o755)
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    paths = os.pathsep.join((str(ROOT), str(ROOT / "proto" / "gen" / "python")))
    return dict(os.environ) | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": paths}


def offered(folder: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    quoted = " ".join(f"'{word}'" for word in ("phalanx", *words))
    script = (
        f'eval "$(phalanx completion bash)"; COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; '
        '_phalanx_completion phalanx; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script], env=environment(folder), capture_output=True, text=True, timeout=60, check=True
    )
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [(("dra",), "drain"), (("get", "no"), "nodes"), (("checkpoints", "pi"), "pin"), (("drain", "--re"), "--reason")],
)
def test_bash_completes_commands_kinds_verbs_and_options(folder: Path, words: tuple[str, ...], expected: str) -> None:
    assert offered(folder, *words) == [expected]


def test_bash_completes_names_of_the_site(folder: Path, controller: FakeController) -> None:
    controller.nodes = {name: fleet_pb2.Node(name=name) for name in ("node-1", "node-2", "other")}
    assert offered(folder, "cordon", "node-") == ["node-1", "node-2"]


def test_a_controller_that_is_away_offers_nothing_and_says_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHALANX_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("PHALANX_PLAINTEXT", "1")
    assert offered(folder, "cordon", "node-") == []


@pytest.mark.parametrize(("shell", "word"), [("zsh", "1"), ("fish", "dra")])
def test_other_shells_get_their_script_and_answers(folder: Path, shell: str, word: str) -> None:
    asked = environment(folder)
    script = subprocess.run(
        ["phalanx", "completion", shell], env=asked, capture_output=True, text=True, timeout=60, check=True
    )
    assert f"{shell}_complete" in script.stdout
    asked |= {"_PHALANX_COMPLETE": f"{shell}_complete", "COMP_WORDS": "phalanx dra", "COMP_CWORD": word}
    answer = subprocess.run(["phalanx"], env=asked, capture_output=True, text=True, timeout=60, check=True)
    assert "drain" in answer.stdout
