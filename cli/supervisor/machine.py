"""Small things the supervisor asks of the machine: probes, private files, limits, its log."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def group_of(pid: int) -> int:
    """Process group of a process; 0 when it is gone."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def accepts(probe: str) -> bool:
    """Whether the address takes a connection; an empty one always does."""
    if not probe:
        return True
    family = socket.AF_UNIX if probe.startswith("unix:") else socket.AF_INET
    host, _, port = probe.rpartition(":")
    address: Any = probe.removeprefix("unix:") if family == socket.AF_UNIX else (host, int(port))
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(0.2)
        try:
            one.connect(address)
        except OSError:
            return False
    return True


def private(path: str, flags: int) -> int:
    """Opens a file for its owner only; an `opener`."""
    return os.open(path, flags, 0o600)


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def raise_file_limit() -> None:
    """As many open files as we may have: one connection per agent and rank adds up."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def log(event: str, **values: object) -> None:
    """One JSON line to the supervisor's log. Not structlog: the supervisor must start without anything installed."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"at": at, "event": event} | values
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()
