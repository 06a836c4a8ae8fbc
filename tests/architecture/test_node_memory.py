"""No test leaves folders of states in the machine's memory: they would be a hundred for every run of the suite."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from agents.node.config import memory_folder
from tests.fixtures.node_memory import forget_memory

ROOT = Path(__file__).resolve().parents[2]
STARTS_AN_AGENT = re.compile(r'"-m",\s+"agents\.node"')


def test_who_starts_a_node_agent_removes_its_states() -> None:
    starters = {path for path in ROOT.glob("tests/**/*.py") if STARTS_AN_AGENT.search(path.read_text())}
    assert len(starters) > 5
    forgetful = [path.relative_to(ROOT).as_posix() for path in starters if "forget_memory(" not in path.read_text()]
    assert sorted(forgetful) == []


def test_states_of_one_agent_go_and_those_of_others_stay(tmp_path: Path) -> None:
    folders = [memory_folder(tmp_path / name) for name in ("one", "two")]
    assert folders[0].name == f"phalanx-{hashlib.sha256(str(tmp_path / 'one').encode()).hexdigest()[:16]}"
    try:
        for folder in folders:
            (folder / "own").mkdir(parents=True)
            (folder / "own" / "demo-1.state").touch()
        forget_memory(tmp_path / "one")
        assert [folder.exists() for folder in folders] == [False, True]
        forget_memory(tmp_path / "one")
    finally:
        forget_memory(tmp_path / "two")
