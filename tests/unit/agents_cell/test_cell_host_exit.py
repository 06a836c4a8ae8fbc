"""Last words, memory kills and leftovers, on real files and processes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from agents.cell.host_exit import (
    MESSAGE_LIMIT_BYTES,
    MemoryKills,
    kill_leftovers,
    last_words,
    session_leftovers,
)
from tests.fixtures.controller_process import until

TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 1, in <module>\n    f()\nValueError: no\n'


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("", 0, ""),
        ("one\ntwo\n", 0, "one\ntwo"),
        ("of a former life\nof this one\n", 17, "of this one"),
        ("before\n" + TRACEBACK, 0, TRACEBACK.rstrip()),
        ("before\n" + TRACEBACK + "cleanup\n", 0, TRACEBACK + "cleanup"),
    ],
)
def test_short_logs(tmp_path: Path, text: str, start: int, expected: str) -> None:
    (tmp_path / "log").write_text(text)
    assert last_words(str(tmp_path / "log"), start) == expected


def test_a_long_log_is_cut_at_a_line_and_stays_within_the_limit(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"step {number}\n" for number in range(50_000)))
    words = last_words(str(tmp_path / "log"), 0)
    assert MESSAGE_LIMIT_BYTES - 20 < len(words.encode()) <= MESSAGE_LIMIT_BYTES
    assert words.startswith("step ")
    assert words.endswith("step 49999")


def test_a_traceback_far_from_the_end_is_kept_beside_the_last_lines(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(TRACEBACK + "".join(f"worker {number} stops\n" for number in range(1000)))
    words = last_words(str(tmp_path / "log"), 0)
    assert words.startswith(TRACEBACK.rstrip() + "\n[...]\n")
    assert words.endswith("worker 999 stops")
    assert len(words.encode()) <= MESSAGE_LIMIT_BYTES


def test_a_traceback_longer_than_the_limit_keeps_its_error(tmp_path: Path) -> None:
    frames = "".join(f'  File "deep.py", line {number}, in f\n    f()\n' for number in range(400))
    (tmp_path / "log").write_text(f"Traceback (most recent call last):\n{frames}RecursionError: too deep\n")
    words = last_words(str(tmp_path / "log"), 0)
    assert words.endswith("RecursionError: too deep")
    assert len(words.encode()) <= MESSAGE_LIMIT_BYTES


def test_bytes_that_are_no_text_do_not_break_the_limit(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\xff" * 100_000)
    assert len(last_words(str(tmp_path / "log"), 0).encode()) <= MESSAGE_LIMIT_BYTES
    assert "cannot be read" in last_words(str(tmp_path / "missing"), 0)


@pytest.mark.parametrize("content", ["low 0\noom 1\noom_kill {}\n", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"])
def test_the_counter_of_both_control_group_versions(tmp_path: Path, content: str) -> None:
    path = tmp_path / "events"
    path.write_text(content.format(3))
    before = MemoryKills(str(path), 3)
    assert not before.grown()
    path.write_text(content.format(4))
    assert before.grown()
    path.unlink()
    assert not before.grown()
    assert not MemoryKills("", 0).grown()


def test_leftovers_of_a_session_are_found_and_killed() -> None:
    leader = subprocess.Popen(["sh", "-c", "sleep 1000 & sleep 1000 & wait"], start_new_session=True)
    try:
        until(lambda: len(session_leftovers(leader.pid)) == 2, "both run")
        assert kill_leftovers(leader.pid, 60.0)
        assert session_leftovers(leader.pid) == []
    finally:
        os.killpg(leader.pid, 9)
        leader.wait()
