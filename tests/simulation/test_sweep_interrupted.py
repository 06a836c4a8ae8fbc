"""Ctrl-C in `phalanx sim sweep`, as a terminal sends it: to the command and to all of its processes."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

ENDED = 120.0
"""A limit for a machine that is busy with something else."""


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_sweep_tells_what_it_has_found(tmp_path: Path, jobs: int) -> None:
    ours, theirs = os.openpty()  # on a terminal each seed that ends is shown
    command = [sys.executable, "-m", "cli", "sim", "sweep", "--seeds", "1-100000", "--jobs", str(jobs)]
    with open(ours, "rb", buffering=0) as terminal:
        sweep = subprocess.Popen(
            [*command, "--folder", str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            start_new_session=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  whoever runs the
            # tests may have it ignored, and what is ignored stays so
        )
        os.close(theirs)
        try:
            said = b""
            while not re.search(rb"[1-9][0-9]* seeds", said):
                said += terminal.read(4_096)
            os.killpg(sweep.pid, signal.SIGINT)
            out, _ = sweep.communicate(timeout=ENDED)
            said += rest(terminal.fileno())
        finally:
            if sweep.poll() is None:
                os.killpg(sweep.pid, signal.SIGKILL)
                sweep.communicate()
    assert sweep.returncode == 130, said.decode()
    assert b"Traceback" not in said
    assert "Traceback" not in out
    assert b"interrupted: " in said
    assert "simulated" in out
    stored = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert [found["seeds"] > 0 for found in stored] == [True]


def rest(terminal: int) -> bytes:
    """What was written before everybody closed it; fails when a process of the sweep lives on."""
    found = b""
    while select.select([terminal], [], [], ENDED)[0]:
        try:
            read = os.read(terminal, 4_096)
        except OSError:  # EIO: nobody has it open any more
            return found
        if not read:
            return found
        found += read
    raise AssertionError(f"somebody has the terminal open still: {found!r}")
