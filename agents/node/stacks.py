"""Where do the ranks of a job stand? Asked by the controller when a job makes no step.

py-spy reads the stacks from outside, without stopping a rank (`--nonblocking`), each in a child process with a deadline: a rank
that hangs or is stopped cannot help. The collectives are read from the ranks' flight pages (`agents.rank.flight`), twice, so
that a job that works is told from one that stands still.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import structlog
from phalanx.v1 import agent_pb2

from agents.node.hosts import HostRecord
from agents.node.outcomes import Outcome
from agents.node.processes import read_stat
from agents.node.stack_text import main_thread, place_of
from agents.node.state import NodeState
from agents.rank import flight

DUMP_DEADLINE_S = 3.0
APART_S = 0.5
"""Between the two looks at the collectives."""
AT_ONCE = 4
MOST_RANKS = 256
MOST_PLACES = 64
MOST_BYTES = 64 << 10
MOST_OUTPUT = 4 << 20
"""Of one dump; a stack of a thousand frames is a tenth of it."""
MOST_TROUBLE = 200

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Dump:
    """One rank's stack: its place and whether that is in a collective, or why there is none."""

    place: str = ""
    inside: bool = False
    trouble: str = ""


class StackDesk:
    """Answers orders to gather stacks. They change nothing, so that any number of them may run."""

    def __init__(self, state: NodeState, py_spy: str | None = None) -> None:
        self._state = state
        self._py_spy = py_spy if py_spy is not None else find_py_spy()
        self._few = asyncio.Semaphore(AT_ONCE)

    async def carry_out(self, order: agent_pb2.GatherStacks, deadline_s: float) -> Outcome:
        """Look at every rank of the generation that lives here."""
        records = [
            record
            for record in self._state.table
            if record.identity.job_uid == order.job_uid
            and record.assigned is not None
            and record.assigned.generation == order.generation
            and record.pid > 0
            and not record.exited
        ][:MOST_RANKS]
        begun = time.monotonic()
        limit_s = min(DUMP_DEADLINE_S, deadline_s) if deadline_s else DUMP_DEADLINE_S
        before = await asyncio.to_thread(_flights, [record.pid for record in records])
        dumps = await asyncio.gather(*(self._few_at_once(record.pid, limit_s) for record in records))
        await asyncio.sleep(max(0.0, begun + APART_S - time.monotonic()))
        after = await asyncio.to_thread(_flights, [record.pid for record in records])
        report = agent_pb2.StackReport()
        places: dict[str, int] = {}
        for record, dump in zip(records, dumps, strict=True):
            row = self._row(record, dump, places)
            _add_collectives(row, before.get(record.pid), after.get(record.pid), order.generation)
            report.ranks.append(row)
        report.places.extend(places)
        bound(report)
        troubles = sorted({dump.trouble for dump in dumps if dump.trouble})
        log.info("stacks.gathered", job=order.job_uid, ranks=len(records), places=[*places], troubles=troubles)
        return Outcome(ok=True, final=False, stacks=report)

    def _row(self, record: HostRecord, dump: Dump, places: dict[str, int]) -> agent_pb2.RankStack:
        assert record.assigned is not None  # chosen by it
        row = agent_pb2.RankStack(rank=record.assigned.rank, inside=dump.inside, trouble=dump.trouble)
        row.step = self._state.last_step(record.identity.host_id, record.assigned.generation)
        stat = read_stat(record.pid)
        row.stopped = stat is not None and stat.state in "TtZ"
        if dump.place and (dump.place in places or len(places) < MOST_PLACES):
            row.place = places.setdefault(dump.place, len(places) + 1)
        return row

    async def _few_at_once(self, pid: int, limit_s: float) -> Dump:
        async with self._few:
            return await self.dump(self._py_spy, pid, limit_s)

    @staticmethod
    async def dump(program: str, pid: int, limit_s: float) -> Dump:
        """The stack of a process by py-spy (`program`; "" or ".": there is none), within a time."""
        if program in ("", "."):
            return Dump(trouble="py-spy is not installed beside the node agent")
        command = (program, "dump", "--json", "--nonblocking", "--pid", str(pid))
        pipe = asyncio.subprocess.PIPE
        try:
            child = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
            )
        except OSError as error:
            return Dump(trouble=f"py-spy cannot be started: {error.strerror}")
        try:
            out, err = await asyncio.wait_for(child.communicate(), limit_s)
        except TimeoutError:
            return Dump(trouble=f"py-spy gave no answer within {limit_s:g} s")
        finally:
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        if child.returncode:
            return Dump(trouble=_first_line(err))
        return parse(out, pid)


def parse(out: bytes, pid: int) -> Dump:
    """What py-spy wrote."""
    try:
        threads = json.loads(out[:MOST_OUTPUT])
    except ValueError:
        return Dump(trouble="py-spy's answer is no JSON")
    frames = main_thread(threads if isinstance(threads, list) else (), pid)
    if not frames:
        return Dump(trouble="its first thread runs no Python")
    place, inside = place_of(frames)
    return Dump(place, inside)


def bound(report: agent_pb2.StackReport) -> None:
    """Leave out collectives, then places, until it is small enough: what is left accuses less, and nobody wrongly."""
    for row in reversed(report.ranks):
        if report.ByteSize() <= MOST_BYTES:
            return
        del row.collectives[:]
    if report.ByteSize() > MOST_BYTES:
        for row in report.ranks:
            row.place = 0
        del report.places[:]


def find_py_spy() -> str:
    """The program beside this Python, or on the path; "": there is none."""
    beside = os.path.join(os.path.dirname(sys.executable), "py-spy")
    return beside if os.access(beside, os.X_OK) else shutil.which("py-spy") or ""


def _flights(pids: Iterable[int]) -> Mapping[int, flight.Flight]:
    found = {pid: flight.read(pid) for pid in pids}
    return {pid: page for pid, page in found.items() if page is not None}


def _add_collectives(
    row: agent_pb2.RankStack, before: flight.Flight | None, after: flight.Flight | None, generation: int
) -> None:
    if before is None or after is None or after.generation != generation:
        return
    row.moved = before != after
    row.inside = row.inside or any(group.waits for group in after.groups)
    for group in after.groups:
        row.collectives.add(
            group=group.name, members=group.members, issued=group.issued, finished=group.finished,
            operation=group.operation, waits=group.waits > 0,
        )  # fmt: skip


def _first_line(error: bytes) -> str:
    lines = [line.strip() for line in error.decode("utf-8", "replace").splitlines() if line.strip()]
    return (lines[0] if lines else "py-spy failed and did not say why")[:MOST_TROUBLE]
