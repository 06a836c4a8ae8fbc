"""Processes of this machine, found through /proc: by a marker in their environment, and by descent."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

SITE_MARKER = "PHALANX_SITE"
NODE_MARKER = "PHALANX_NODE"

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None, use_errno=True)

SHARED_MEMORY = "/dev/shm/"


def become_subreaper() -> None:
    """Orphaned descendants become our children instead of init's, so that we see and reap them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """SIGTERM for this process when its parent dies."""
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def environment_of(pid: int) -> frozenset[bytes]:
    """`NAME=value` entries a process was started with; empty when it is gone or not ours."""
    try:
        return frozenset(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return frozenset()


def parents() -> dict[int, int]:
    """Parent of every living process that is no zombie."""
    table: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        fields = _stat(int(entry))
        if fields and fields[0] not in ("Z", "X"):
            table[int(entry)] = int(fields[1])
    return table


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on (the name before them may hold spaces and brackets)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text[text.rindex(")") + 2 :].split()


def parent_of(pid: int) -> int:
    """Parent of one process; 0 when it is gone."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in ("Z", "X")


def command_of(pid: int) -> list[str]:
    """The command line of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except OSError:
        return []


def marked(name: str, value: str) -> set[int]:
    """Processes whose environment holds `name=value`, and all that descends from them; never this process or above.

    Descendants count because a process may overwrite the memory that its environment is read from (setproctitle does).
    """
    table = parents()
    entry = f"{name}={value}".encode()
    found = {pid for pid in table if entry in environment_of(pid)}
    return with_descendants(found, table) - _own_line(table)


def descendants(pid: int) -> set[int]:
    """All processes below one, without it."""
    return with_descendants({pid}, parents()) - {pid}


def with_descendants(roots: Iterable[int], table: dict[int, int]) -> set[int]:
    """The roots and everything below them."""
    children: dict[int, list[int]] = {}
    for child, parent in table.items():
        children.setdefault(parent, []).append(child)
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, ())
    return found


def _own_line(table: dict[int, int]) -> set[int]:
    line, pid = set(), os.getpid()
    while pid and pid not in line:
        line.add(pid)
        pid = table.get(pid, 0)
    return line


def send(pid: int, number: int) -> None:
    """A signal to a process that may already be gone."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def send_group(pid: int, number: int) -> None:
    """A signal to a process group that may already be empty."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def kill_until_gone(find: Callable[[], set[int]], timeout_s: float, reap: Callable[[], None]) -> set[int]:
    """SIGKILL to what `find` returns, again until it returns nothing. What is left at the deadline is returned."""
    end = time.monotonic() + timeout_s
    while left := find():
        for pid in left:
            send(pid, signal.SIGKILL)
        reap()
        if time.monotonic() > end:
            return left
        time.sleep(0.005)
    return set()


def shared_memory_of(pids: Iterable[int]) -> set[str]:
    """Files under /dev/shm that these processes have mapped or open and that still have a name."""
    found: set[str] = set()
    for pid in pids:
        try:
            with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as lines:
                paths = [line[line.index(SHARED_MEMORY) :].rstrip("\n") for line in lines if SHARED_MEMORY in line]
            paths += [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        found.update(path for path in paths if path.startswith(SHARED_MEMORY) and not path.endswith(" (deleted)"))
    return found


def remove_shared_memory(paths: set[str]) -> None:
    """Removes leftovers that no living process uses."""
    if not paths:
        return
    for path in paths - shared_memory_of(parents()):
        Path(path).unlink(missing_ok=True)
