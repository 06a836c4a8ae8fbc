"""Reading the step log: what one kill cost. Pure; the definitions of the benchmark are here and nowhere else.

- *highest*: the highest step that any rank had finished before the first rank was loaded again;
- *loaded*: the moment when the last rank had its groups rebuilt and its state loaded;
- *new step*: the moment when the last rank finished step highest + 1 after that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

LOADED, STEP = "loaded", "step"
TAIL_BYTES = 1 << 16
"""About 1,500 lines, 400 steps of four ranks: more than one interval between kills."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log; `ns` is on the machine's monotonic clock."""

    ns: int
    rank: int
    pid: int
    event: str
    step: int


@dataclass(frozen=True, slots=True)
class Recovery:
    """One kill and what followed. Seconds count from the kill."""

    loaded_s: float
    new_step_s: float
    steps_redone: int


def parse(text: str) -> list[Line]:
    """Lines in the order of their clocks. The last one may still be in the making and is left out then."""
    lines = []
    for row in text[: text.rfind("\n") + 1].splitlines():
        ns, rank, pid, event, step = row.split()
        lines.append(Line(int(ns), int(rank), int(pid), event, int(step)))
    return sorted(lines, key=lambda line: line.ns)


def read(path: Path) -> list[Line]:
    """All lines so far; none when no rank has begun."""
    return parse(path.read_text(encoding="ascii")) if path.exists() else []


def tail(path: Path) -> list[Line]:
    """The last lines, enough for what is going on now; cheap on a long log."""
    if not path.exists():
        return []
    with open(path, "rb") as file:
        start = max(0, path.stat().st_size - TAIL_BYTES)
        file.seek(start)
        text = file.read().decode("ascii")
    return parse(text[text.find("\n") + 1 :] if start else text)


def recovery(lines: Iterable[Line], killed_ns: int, ranks: int) -> Recovery | None:
    """What the kill at `killed_ns` cost; None while not every rank has made the new step."""
    lines = list(lines)
    highest = _highest(lines, killed_ns)
    if highest is None:
        return None
    loaded: dict[int, Line] = {}
    new: dict[int, int] = {}
    for line in lines:
        if line.ns <= killed_ns:
            continue
        if line.event == LOADED:
            loaded[line.rank] = line  # a rank that loads again has another attempt behind it
            new.pop(line.rank, None)
        elif line.rank in loaded and line.step == highest + 1:
            new.setdefault(line.rank, line.ns)
    if len(new) < ranks:
        return None
    return _cost(killed_ns, highest, loaded, new)


def carried_on(lines: Iterable[Line], killed_ns: int, ranks: Collection[int]) -> Recovery | None:
    """What the kill at `killed_ns` cost a system that goes on without the rank it has lost; None while not every one of `ranks`
    has made a step that none had made before. Not every rank makes the same first one: who comes late takes the state of others,
    after their step. A step that counted is not taken back when groups are built once more."""
    lines = [line for line in lines if line.rank in ranks]
    highest = _highest(lines, killed_ns)
    if highest is None:
        return None
    loaded: dict[int, Line] = {}
    new: dict[int, int] = {}
    for line in lines:
        if line.ns <= killed_ns or line.rank in new:
            continue
        if line.event == LOADED:
            loaded[line.rank] = line
        elif line.rank in loaded and line.step > highest:
            new[line.rank] = line.ns
    if len(new) < len(ranks):
        return None
    return _cost(killed_ns, highest, loaded, new)


def _highest(lines: list[Line], killed_ns: int) -> int | None:
    """The highest step that anybody had made before the first rank was loaded again; None: nobody has been."""
    again = [line for line in lines if line.ns > killed_ns and line.event == LOADED]
    if not again:
        return None
    return max(line.step for line in lines if line.ns < again[0].ns and line.event == STEP)


def _cost(killed_ns: int, highest: int, loaded: dict[int, Line], new: dict[int, int]) -> Recovery:
    """`new`: when each rank had made its new step, ns. Who comes late may take a state of after `highest`."""
    return Recovery(
        (max(line.ns for line in loaded.values()) - killed_ns) / 1e9,
        (max(new.values()) - killed_ns) / 1e9,
        max(0, highest - min(line.step for line in loaded.values())),
    )


def step_times_s(lines: Iterable[Line], rank: int = 0) -> list[float]:
    """Time between consecutive steps of one rank inside its attempts."""
    times = []
    before: Line | None = None
    for line in lines:
        if line.rank != rank:
            continue
        if line.event == STEP and before is not None and line.step == before.step + 1:
            times.append((line.ns - before.ns) / 1e9)
        before = line if line.event == STEP else None
    return times


def median_step_s(lines: Iterable[Line]) -> float:
    """Median time of a step, checkpoints included; 0 when there are too few."""
    times = step_times_s(lines)
    return median(times) if times else 0.0
