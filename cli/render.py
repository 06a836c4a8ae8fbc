"""The only module that prints. Data goes to standard output, everything else to standard error.

`rich` draws the bars of the demo on a terminal, and is imported only there. Text from elsewhere (names, labels, messages)
is shown without its control characters; a rank's own output is handed through.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cli.errors import CliError
from cli.tables import aligned, clean, has_colour
from cli.wire import enum_word

if TYPE_CHECKING:
    import rich.progress
    from phalanx.v1 import event_pb2, job_pb2
    from rich.progress import TaskID

BAR_WIDTH = 30
TRANSFER_FROM_BYTES = 1 << 20
"""Less is sent before a person could read about it."""


def out(text: str = "") -> None:
    """One line of data."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def lines(texts: Iterable[str]) -> None:
    """Many lines of data at once."""
    sys.stdout.write("".join(f"{clean(text)}\n" for text in texts))
    sys.stdout.flush()


def out_bytes(data: bytes) -> None:
    """Raw data, for example a rank's output."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def note(text: str) -> None:
    """One line for the person who watches: progress, hints, warnings."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def failure(error: CliError) -> None:
    """An expected failure."""
    for line in error.lines():
        note(clean(line))


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of rows."""
    columns(headers, [[row[index] for row in rows] for index in range(len(headers))])


def columns(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """A table of columns: the same, for long lists."""
    out(aligned(headers, cells, colour=has_colour(sys.stdout)))


def document(value: Any, form: str) -> None:
    """Plain values as JSON or YAML."""
    if form == "json":
        out(json.dumps(value, indent=2, ensure_ascii=False))
        return
    import yaml  # noqa: PLC0415

    out(yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip())


def json_line(value: Any) -> str:
    """One value on one line, for streams."""
    return json.dumps(value, ensure_ascii=False)


def fields(pairs: Iterable[tuple[str, str]]) -> None:
    """Names and values below each other; empty values are left out."""
    shown = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        out(f"{name.ljust(width)}  {clean(value)}")


def transfer(what: str, done: int, total: int) -> None:
    """How much of something large has left, on a terminal only."""
    if total >= TRANSFER_FROM_BYTES and sys.stderr.isatty():
        sys.stderr.write(f"\r{what}: {100 * done // total} % of {count_bytes(total)}" + "\n" * (done == total))
        sys.stderr.flush()


def heading(text: str) -> None:
    """A part of a description begins."""
    out()
    out(text)


def seconds(value: float) -> str:
    """A duration with three leading digits: `0.42 s`, `13.1 s`, `2 m 05 s`."""
    if not math.isfinite(value):
        return "-"
    if value < 10:
        return f"{value:.2f} s"
    if value < 100:
        return f"{value:.1f} s"
    return f"{int(value) // 60} m {int(value) % 60:02d} s"


def age(value: float) -> str:
    """How long ago, in two units at most: `42.0 s`, `12 m 05 s`, `3 h 20 m`, `2 d 4 h`."""
    if not math.isfinite(value) or value < 2 * 3_600:
        return seconds(value)
    hours, rest = divmod(int(value), 3_600)
    return f"{hours} h {rest // 60:02d} m" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def loss(value: float) -> str:
    """A loss, or `-` when none was reported; `not finite` is what a rank tells that found no number."""
    if math.isinf(value):
        return "not finite"
    return f"{value:.4f}" if math.isfinite(value) and value else "-"


def count_bytes(value: int) -> str:
    """A size with a binary unit."""
    size = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def amounts(values: Mapping[str, float]) -> str:
    """Named seconds on one line, largest first; what rounds to nothing is left out."""
    shown = sorted(((name, value) for name, value in values.items() if value >= 0.005), key=lambda item: -item[1])
    return ", ".join(f"{name} {seconds(value)}" for name, value in shown)


def clock(at: str) -> str:
    """The local time of day of an RFC 3339 text, for lines that people read as they come."""
    try:
        return datetime.fromisoformat(at).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except ValueError:
        return at


def event_line(event: event_pb2.Event) -> str:
    """One event on one line."""
    about = " ".join(part for part in (event.job, event.node) if part)
    return clean(f"{clock(event.at)}  r{event.revision:<6} {event.type:<24} {about:<20} {event.message}".rstrip())


def job_state(job: job_pb2.Job) -> str:
    """The word of a job's state."""
    from phalanx.v1 import types_pb2  # noqa: PLC0415

    return enum_word(types_pb2.JobState, job.state)


def total_steps(job: job_pb2.Job) -> int:
    """How many steps the job wants to make, when its workload takes `steps` as an argument; else 0."""
    args = job.spec.workload.args.fields
    return int(args["steps"].number_value) if "steps" in args else 0


def brief(reason: str) -> str:
    """A reason on one line: of a traceback in it only what was raised; `phalanx logs` has the rest."""
    first, *rest = reason.strip().splitlines() or [""]
    return f"{first.removesuffix('Traceback (most recent call last):')}{rest[-1].strip()}" if rest else first


def job_line(job: job_pb2.Job, *, bar: bool) -> str:
    """A job's progress on one line."""
    total = total_steps(job)
    done = f"{job.step}/{total}" if total else f"{job.step}"
    parts = [f"{job.name} {job_state(job):<10}"]
    if bar and total:
        filled = min(BAR_WIDTH, BAR_WIDTH * int(job.step) // total)
        parts.append("[" + "#" * filled + "." * (BAR_WIDTH - filled) + "]")
    parts.append(f"step {done}  gen {job.generation}  loss {loss(job.loss)}  {seconds(job.step_time_s)}/step")
    if job.blocker:
        parts.append(job.blocker if job.blocker.startswith("waits ") else f"waits: {job.blocker}")
    if job.end_reason:
        parts.append(brief(job.end_reason))
    return clean("  ".join(parts))


class Progress:
    """The line of a job: rewritten in place on a terminal, a new line per change of state (or tenth) otherwise."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._last: tuple[object, ...] = ()
        self._open = False

    def show(self, job: job_pb2.Job) -> None:
        """Shows the job as it is now."""
        if self._terminal:
            import shutil  # noqa: PLC0415

            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write("\r\x1b[2K" + job_line(job, bar=True)[:width])
            sys.stderr.flush()
            self._open = True
            return
        total = total_steps(job)
        tenth = int(job.step) * 10 // total if total else int(job.step) // 100
        key = (job.state, job.generation, tenth, job.blocker)
        if key != self._last:
            self._last = key
            note(job_line(job, bar=False))

    def close(self) -> None:
        """Ends the line, so that what follows starts on its own."""
        if self._open:
            note("")
            self._open = False


class Board:
    """Bars of running jobs with lines above them, from several threads. Without a terminal: lines only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plain = Progress()
        self._tasks: dict[str, TaskID] = {}
        self._bars: rich.progress.Progress | None = None
        if sys.stderr.isatty():
            self._bars = self._make_bars()

    @staticmethod
    def _make_bars() -> rich.progress.Progress:
        from rich.console import Console  # noqa: PLC0415 - only on a terminal
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
        )
        bars = Progress(*columns, console=Console(stderr=True))
        bars.start()
        return bars

    def line(self, text: str) -> None:
        """One line above the bars."""
        with self._lock:
            if self._bars is None:
                note(text)
            else:
                self._bars.console.print(text, markup=False, highlight=False)

    def show(self, job: job_pb2.Job) -> None:
        """The job's bar as it is now."""
        with self._lock:
            if self._bars is None:
                self._plain.show(job)
                return
            if job.name not in self._tasks:
                self._tasks[job.name] = self._bars.add_task(job.name, total=total_steps(job) or None, state="")
            state = f"{job_state(job)} gen {job.generation} loss {loss(job.loss)}"
            self._bars.update(self._tasks[job.name], completed=int(job.step), state=state)
            if job.ended_at:
                self._bars.stop_task(self._tasks[job.name])

    def close(self) -> None:
        """Ends the bars; they stay on the screen."""
        with self._lock:
            if self._bars is not None:
                self._bars.stop()
                self._bars = None
