"""Golden stories: what the machine writes down, told as text. `pytest --regenerate-golden` writes them anew; read the diff."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.script import Story

STORIES = sorted((Path(__file__).parent / "stories").glob("*.txt"))


@pytest.mark.parametrize("path", STORIES, ids=[path.stem for path in STORIES])
def test_story(path: Path, regenerate_golden: bool) -> None:
    written = path.read_text()
    told = Story().play(written)
    if regenerate_golden:
        path.write_text(told)
    else:
        assert told == written, "read the difference; if it is meant: pytest tests/scenarios --regenerate-golden"


def test_there_are_stories() -> None:
    assert len(STORIES) >= 12
