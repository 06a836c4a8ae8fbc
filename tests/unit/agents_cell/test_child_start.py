"""A SIGTERM in the moment in which a child is made reaches the child, or its parent, and is never lost."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator

import pytest

from agents.cell.rank_host import child_set_up, sigterm_held

TERM = int(signal.SIGTERM)


@pytest.fixture
def received() -> Iterator[list[int]]:
    """What this process's own handler of SIGTERM gets, as a rank host has one."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


def test_a_child_that_is_told_to_end_before_its_exec_ends(received: list[int]) -> None:
    set_up = child_set_up(os.getpid())

    def told_before() -> None:
        os.kill(os.getpid(), TERM)
        set_up()

    with sigterm_held():
        child = subprocess.Popen(["sleep", "1000"], preexec_fn=told_before)  # noqa: PLW1509  it is what is tested
    try:
        assert child.wait(60) == -TERM
    finally:
        child.kill()
    assert received == []


def test_a_child_is_started_with_nothing_held_back(received: list[int]) -> None:
    with sigterm_held():
        child = subprocess.Popen(
            ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"],
            stdout=subprocess.PIPE,
            preexec_fn=child_set_up(os.getpid()),  # noqa: PLW1509
        )
    out, _ = child.communicate(timeout=60)
    term = 1 << (TERM - 1)
    assert [int(line.split()[1], 16) & term for line in out.splitlines()] == [0, 0]
    assert received == []


def test_the_parent_gets_its_own_signal_afterwards(received: list[int]) -> None:
    with sigterm_held():
        signal.pthread_kill(threading.get_ident(), TERM)  # a rank host has one thread, this process may have more
        assert received == []
    assert received == [TERM]
