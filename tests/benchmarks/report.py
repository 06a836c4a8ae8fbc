"""The form in which benchmarks write their figures: `.phalanx/bench/<name>.json`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".phalanx" / "bench"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. `spread` is least and most of `n` samples; `must` and `goal` are the limits that were promised."""

    id: str
    value: float
    unit: str
    n: int
    spread: tuple[float, float] | None = None
    must: float | None = None
    goal: float | None = None
    peers: Mapping[str, float | str] = field(default_factory=dict)


def of_samples(
    name: str, samples: Sequence[float], unit: str, *, must: float | None = None, goal: float | None = None
) -> Figure:
    """The median of samples, with their spread."""
    spread = (round(min(samples), 3), round(max(samples), 3))
    return Figure(name, round(median(samples), 3), unit, len(samples), spread, must, goal)


def machine() -> str:
    """What the figures were measured on."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {memory_gib:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def commit() -> str:
    """The commit that the tree is at, with `+` when it holds more than that."""
    argv = ("git", "describe", "--always", "--dirty=+", "--exclude=*")
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout.strip() or "none"


def write(name: str, figures: Sequence[Figure], *, seed: int | None = None, simulated: Sequence[str] = ()) -> Path:
    """Writes the figures of one benchmark and returns the file."""
    path = FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    body = {
        "machine": machine(),
        "commit": commit(),
        "seed": seed,
        "simulated": list(simulated),
        "figures": [asdict(figure) for figure in figures],
    }
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    return path
