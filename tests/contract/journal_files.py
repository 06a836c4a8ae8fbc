"""A journal in a file, and a disk without room, for the contract tests."""

from __future__ import annotations

import hashlib
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from controlplane.adapters.journal.sql import SqlJournal
from controlplane.engine.ports import (
    Snapshot,
)


def snapshot(revision: int, body: str = "{}") -> Snapshot:
    return Snapshot(revision, hashlib.sha256(body.encode()).hexdigest(), body)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let this process write no file beyond `size` bytes: the disk's own error, for any user on any machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def sql_journal(path: Path, busy_timeout_ms: int = 5_000) -> SqlJournal:
    return SqlJournal(f"sqlite:///{path}", busy_timeout_ms=busy_timeout_ms)
