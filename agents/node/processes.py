"""What /proc says about processes and sessions, and signals to them.

A rank host is the leader of its own session, so session id = process group id = its pid. The kernel does not give a
number to a new process while a session or group still bears it. Hence: a leader with *another* start time under the
same number proves that the old session is empty, and its processes are strangers that must not be touched.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """One line of /proc/<pid>/stat. `start_time` is in clock ticks since the machine's boot."""

    pid: int
    state: str
    group: int
    session: int
    threads: int
    start_time: int

    @property
    def alive(self) -> bool:
        """Whether it still runs code: a zombie does not, unless only its first thread has ended."""
        return self.state not in "ZXx" or (self.state == "Z" and self.threads > 1)


@dataclass(frozen=True, slots=True)
class SessionIdentity:
    """A session, told from a later one under the same number by the start time of its leader.

    `contained`: the host id whose processes run in a container, in sessions of their own; they belong to it too.
    """

    leader: int
    start_time: int
    contained: str = ""


def read_stat(pid: int) -> ProcessStat | None:
    """The process's state, or None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            line = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name stands in brackets and may itself hold brackets and blanks: fields count from the last one.
    fields = line[line.rindex(b")") + 2 :].split()
    return ProcessStat(
        pid=pid,
        state=fields[0].decode("ascii"),
        group=int(fields[2]),
        session=int(fields[3]),
        threads=int(fields[17]),
        start_time=int(fields[19]),
    )


def is_alive(pid: int, start_time: int) -> bool:
    """Whether exactly that process, and not a later one under its number, still runs."""
    stat = read_stat(pid)
    return stat is not None and stat.start_time == start_time and stat.alive


def session_members(session: SessionIdentity) -> list[ProcessStat]:
    """Living processes of the session, zombies left out. Scans /proc: call it off the event loop."""
    leader = read_stat(session.leader)
    ours = leader is None or leader.start_time == session.start_time
    if not ours and not session.contained:
        return []
    members = []
    for pid in _pids():
        stat = read_stat(pid)
        if stat is None or not stat.alive:
            continue
        if (ours and stat.session == session.leader) or (session.contained and bears(pid, session.contained)):
            members.append(stat)
    return members


def bears(pid: int, host_id: str) -> bool:
    """Whether the process was started for that host, by its environment."""
    return f"PHALANX_HOST_ID={host_id}".encode() in _environment(pid)


def sessions_of_host(host_id: str, node: str) -> list[SessionIdentity]:
    """Sessions with a living process that was started for `host_id` on this node, by its environment.

    This finds the processes of a host that the agent has never heard of. Own and kernel sessions are never named.
    """
    wanted = f"PHALANX_HOST_ID={host_id}".encode()
    here = f"PHALANX_NODE={node}".encode()
    own_session = os.getsid(0)
    found: dict[int, SessionIdentity] = {}
    for pid in _pids():
        stat = read_stat(pid)
        if stat is None or not stat.alive or stat.session in (0, 1, own_session) or stat.session in found:
            continue
        environment = _environment(pid)
        if wanted not in environment:
            continue
        if here not in environment and any(entry.startswith(b"PHALANX_NODE=") for entry in environment):
            continue
        leader = read_stat(stat.session)
        found[stat.session] = SessionIdentity(stat.session, leader.start_time if leader is not None else 0)
    return list(found.values())


def strike(session: SessionIdentity, number: signal.Signals | None, *, spare_leader: bool = False) -> list[int]:
    """Signal every living process of the session and return their ids; an empty list says that none was left.

    `number` None only looks. The leader gets no signal while `spare_leader`, but is counted. So is a process of
    another user, which cannot be signalled: the session is then not empty, and shown as such.
    """
    members = session_members(session)
    if number is None or not members:
        return [member.pid for member in members]
    if not spare_leader:
        # The group in one call first: no member can fork its way out between a scan and a signal.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(session.leader, number)
    for member in members:
        reached_by_group = not spare_leader and member.group == session.leader
        if member.pid != session.leader and not reached_by_group:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(member.pid, number)
    return [member.pid for member in members]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _environment(pid: int) -> set[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return set(file.read().split(b"\0"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return set()
