"""What can be learnt about a process that has ended: leftovers of its session, memory kills, its last words."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass

MESSAGE_LIMIT_BYTES = 4096
_TAIL_BYTES = 1 << 16
_TRACEBACK_SHARE_BYTES = 2500
_TRACEBACK = "Traceback (most recent call last):"
_CUT = "\n[...]\n"


def session_leftovers(own_pid: int, mark: bytes = b"") -> list[int]:
    """Living processes of the session that `own_pid` leads, or adopted by it; without `own_pid` and zombies.

    With `mark`, also those that have it in their environment: a container's processes are of no session of ours.
    """
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == own_pid:
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                line = file.read()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The name stands in brackets and may itself hold brackets and blanks: fields count from the last one.
        fields = line[line.rindex(b")") + 2 :].split()
        state, parent, session, threads = fields[0], int(fields[1]), int(fields[3]), int(fields[17])
        # A zombie whose other threads still run is alive: only its first thread has ended.
        alive = state not in b"ZXx" or (state == b"Z" and threads > 1)
        if alive and (own_pid in (session, parent) or (mark and _bears(int(name), mark))):
            found.append(int(name))
    return found


def _bears(pid: int, mark: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


def kill_leftovers(own_pid: int, limit_s: float, mark: bytes = b"") -> bool:
    """SIGKILL the leftovers until none is left; False when some are still there after `limit_s`."""
    deadline = time.monotonic() + limit_s
    pause_s = 0.002
    while True:
        leftovers = session_leftovers(own_pid, mark)
        if not leftovers:
            return True
        for pid in leftovers:
            with suppress(ProcessLookupError, PermissionError):  # a container's may be another user's: then not empty
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.1)


@dataclass(frozen=True, slots=True)
class MemoryKills:
    """The kernel's counter of memory kills in this process's control group, as it was when this was made."""

    path: str
    count: int

    @staticmethod
    def now() -> MemoryKills:
        """Read the counter; an empty path when it cannot be read."""
        for path in _counter_paths():
            count = _read_counter(path)
            if count is not None:
                return MemoryKills(path, count)
        return MemoryKills("", 0)

    def grown(self) -> bool:
        """Whether the kernel has killed in the group since then."""
        return bool(self.path) and (_read_counter(self.path) or 0) > self.count


def killed_for_memory(before: MemoryKills, pid: int) -> bool:
    """Whether counter or kernel log say that `pid`, which SIGKILL has ended, was killed for memory.

    The counter is of the whole control group: a SIGKILL of another origin in the same moment is taken for one too.
    """
    return before.grown() or _kernel_log_names(pid)


def _counter_paths() -> list[str]:
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return []
    paths = []
    for _, controllers, group in lines:
        if controllers == "":
            for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
                # A container sees its own group as the root of the mount, whatever the path says.
                paths += [f"{root}{group}/memory.events.local", f"{root}{group}/memory.events"]
                paths.append(f"{root}/memory.events")
        elif "memory" in controllers.split(","):
            paths += [f"/sys/fs/cgroup/memory{group}/memory.oom_control", "/sys/fs/cgroup/memory/memory.oom_control"]
    return paths


def _read_counter(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            for line in file:
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    except (OSError, ValueError):
        pass
    return None


def _kernel_log_names(pid: int) -> bool:
    wanted = f"Killed process {pid} (".encode()
    try:
        descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        while True:
            try:
                record = os.read(descriptor, 1 << 14)
            except BrokenPipeError:  # overwritten while we read: the next read goes on behind the gap
                continue
            except OSError:  # the end, or not readable here
                return False
            if wanted in record and _recent(record):
                return True
    finally:
        os.close(descriptor)


def _recent(record: bytes) -> bool:
    """Whether a kernel log record is of the last minute: numbers of processes are used again."""
    try:
        microseconds = int(record.split(b";", 1)[0].split(b",")[2])
    except (IndexError, ValueError):
        return False
    return time.clock_gettime(time.CLOCK_MONOTONIC) - microseconds / 1e6 < 60


def last_words(log_path: str, start: int) -> str:
    """At most 4 KiB from the end of the log, not before offset `start`; the last traceback is kept if there is one."""
    try:
        with open(log_path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            begin = max(start, size - _TAIL_BYTES)
            file.seek(begin)
            raw = file.read(_TAIL_BYTES)
    except OSError as error:
        return f"the log cannot be read: {error}"
    if begin > start:
        raw = raw[raw.find(b"\n") + 1 :]
    text = raw.decode("utf-8", "replace").rstrip()
    at = text.rfind(_TRACEBACK)
    if at < 0:
        return _clip_front(text, MESSAGE_LIMIT_BYTES)
    if len(text[at:].encode()) <= MESSAGE_LIMIT_BYTES:
        return text[at:]
    block, rest = _split_traceback(text[at:])
    if not rest:
        return _clip_front(block, MESSAGE_LIMIT_BYTES)
    head = _clip_front(block, _TRACEBACK_SHARE_BYTES)
    return head + _CUT + _clip_front(rest, MESSAGE_LIMIT_BYTES - len(head.encode()) - len(_CUT))


def _split_traceback(text: str) -> tuple[str, str]:
    """The traceback at the start of `text` up to its error line, and what follows."""
    lines = text.split("\n")
    end = next((index for index, line in enumerate(lines) if index and not line.startswith((" ", "\t"))), len(lines))
    return "\n".join(lines[: end + 1]), "\n".join(lines[end + 1 :])


def _clip_front(text: str, limit_bytes: int) -> str:
    """The end of `text` that fits; from the start of a line if there is one."""
    raw = text.encode()
    if len(raw) <= limit_bytes:
        return text
    raw = raw[-limit_bytes:]
    line_end = raw.find(b"\n")
    if 0 <= line_end < limit_bytes - 1:
        raw = raw[line_end + 1 :]
    return raw.decode("utf-8", "ignore")
