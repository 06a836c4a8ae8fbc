"""What the workers of `make test` share: a file that is renamed must not start a second server unnoticed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.fixtures.workers import SHARED, turn_of, unit_of

ROOT = Path(__file__).resolve().parents[2]


def files_with(pattern: str) -> set[str]:
    """Test files with text that matches."""
    found = (path for path in ROOT.glob("tests/**/test_*.py") if re.search(pattern, path.read_text()))
    return {path.relative_to(ROOT).as_posix() for path in found}


def test_files_with_a_server_of_the_session_are_one_unit_of_work() -> None:
    users = {"a site": r"def test_\w+\(\s*site: RunningSite", "a Ray cell": r"def site\(cell_site: CellSite\)"}
    for server, pattern in users.items():
        assert files_with(pattern) == {file for file, shared in SHARED.items() if shared == server}


@pytest.mark.parametrize(
    "nodeid", ["tests/unit/core/test_why.py::test_a", "tests/unit/core/test_why.py::Class::test_b[::]"]
)
def test_other_files_stay_whole(nodeid: str) -> None:
    assert unit_of(nodeid) == "tests/unit/core/test_why.py"


def test_what_takes_longest_begins_first() -> None:
    assert turn_of("tests/e2e/test_kills.py::test_x") < turn_of("tests/integration/test_logs.py::test_x")
    assert turn_of("tests/fuzz/test_tls.py::test_x") < turn_of("tests/unit/core/test_why.py::test_x")
