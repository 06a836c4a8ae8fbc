"""What seeds have shown: one result each, and their sum, as plain values that travel between processes and into files."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

YEAR_S = 365.25 * 86_400.0


@dataclass(frozen=True, slots=True)
class SeedResult:
    """One seed. `digest`: of its records. `invariant`: the one that was violated, "" when none was; `defect`: the program
    itself stopped with an error. `text`: the violation or the error in full. `faults`: injected, by kind. `wall_s` and `cpu_s`:
    how long it took, and how much of a processor."""

    seed: int
    digest: str
    simulated_s: float
    wall_s: float
    cpu_s: float
    records: int
    faults: dict[str, int]
    coverage: dict[str, int]
    invariant: str = ""
    text: str = ""

    @property
    def clean(self) -> bool:
        """Whether nothing was violated."""
        return not self.invariant


@dataclass(slots=True)
class Total:
    """The sum of many seeds. `violations`: by seed, the newest last."""

    seeds: int = 0
    simulated_s: float = 0.0
    cpu_s: float = 0.0
    records: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    coverage: Counter[str] = field(default_factory=Counter)
    violations: list[SeedResult] = field(default_factory=list)

    def add(self, result: SeedResult) -> None:
        """One more seed."""
        self.seeds += 1
        self.simulated_s += result.simulated_s
        self.cpu_s += result.cpu_s
        self.records += result.records
        self.faults.update(result.faults)
        self.coverage.update(result.coverage)
        if not result.clean:
            self.violations.append(result)

    @property
    def years(self) -> float:
        """Simulated years of a site."""
        return self.simulated_s / YEAR_S

    def to_json(self) -> dict[str, Any]:
        """Plain values, sorted where order means nothing."""
        return {
            "seeds": self.seeds, "simulated_years": self.years, "cpu_s": self.cpu_s, "records": self.records,
            "faults": dict(sorted(self.faults.items())), "coverage": dict(sorted(self.coverage.items())),
            "violations": [asdict(result) for result in sorted(self.violations, key=lambda result: result.seed)],
        }  # fmt: skip


def write(folder: Path, total: Total, about: dict[str, Any]) -> Path:
    """Store the sum of a sweep, and each violation as a text of its own. Returns the sum's file."""
    folder.mkdir(parents=True, exist_ok=True)
    for result in total.violations:
        (folder / f"violation-{result.seed}.txt").write_text(result.text + "\n")
    path = folder / "sweep.json"
    path.write_text(json.dumps({**about, **total.to_json()}, indent=1) + "\n")
    return path
