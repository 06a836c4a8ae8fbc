"""Makes the helper modules of this folder importable, whichever folder pytest was started from; where a journal lies."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"
