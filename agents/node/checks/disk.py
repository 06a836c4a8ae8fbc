"""The node's disk: write, fsync, drop what the kernel holds, read back."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from agents.node.checks.finding import DISK, NODE, Answer, Finding

BLOCK = bytes(range(256)) * 4_096
BLOCKS = 16
NAME = "check-of-the-disk"


def check(folder: Path) -> Answer:
    """16 MiB in `folder`, which are deleted afterwards."""
    path = folder / NAME
    began = time.perf_counter()
    try:
        _write(path)
        wrong = _wrong_blocks(path)
    except OSError as error:
        return _bad(f"{path}: {error.strerror or error}")
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    if wrong:
        return _bad(f"{path}: {wrong} of {BLOCKS} MiB that were written came back changed")
    return Answer(
        "cpu", figures={f"{NODE}: disk, bytes per second": BLOCKS * len(BLOCK) / (time.perf_counter() - began)}
    )


def _bad(message: str) -> Answer:
    return Answer("cpu", (Finding(NODE, DISK, message),))


def _write(path: Path) -> None:
    with path.open("wb") as file:
        for number in range(BLOCKS):
            file.write(_block(number))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _wrong_blocks(path: Path) -> int:
    with path.open("rb") as file:
        return sum(file.read(len(BLOCK)) != _block(number) for number in range(BLOCKS))


def _block(number: int) -> bytes:
    """A block that is another at another place: one that lands elsewhere is seen."""
    return number.to_bytes(8, "big") + BLOCK[8:]
