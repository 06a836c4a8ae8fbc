"""What the agent remembers of checks over its restarts: findings that stand, and the best that each figure has ever been here.

A node is measured against itself: models differ, a machine that is half as fast as it was is out of order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from agents.node.checks.finding import MEMORY_SLOW, Finding
from agents.node.checks.memory import FIGURE
from agents.node.durable import replace_file

SLOW_SHARE = 0.5
"""Of its own best. Other work on the machine costs less than that; measured anew before it is believed (`desk`)."""


@dataclass(slots=True)
class CheckRecord:
    """`best` by figure. `standing`: what was found and not found well since. `checked_unix_s`: when all was checked last,
    `preflight_unix_s`: when arithmetic was. `reboot_asked_in`: the boot of the machine in which a reboot was asked for, ""
    when none is.
    """

    best: dict[str, float] = field(default_factory=dict)
    standing: tuple[Finding, ...] = ()
    checked_unix_s: float = 0.0
    reboot_asked_in: str = ""
    preflight_unix_s: float = 0.0

    def slow(self, figures: Mapping[str, float]) -> tuple[Finding, ...]:
        """Memory that is much slower than it was; other figures are for people."""
        found = []
        for name, value in sorted(figures.items()):
            entity, _, what = name.partition(": ")
            best = self.best.get(name, 0.0)
            if what == FIGURE and value < SLOW_SHARE * best:
                text = f"{value / 1e9:.1f} GB/s; this node has had {best / 1e9:.1f} GB/s"
                found.append(Finding(entity, MEMORY_SLOW, text))
        return tuple(found)

    def remember(self, figures: Mapping[str, float]) -> None:
        """The best counts."""
        for name, value in figures.items():
            self.best[name] = max(value, self.best.get(name, 0.0))

    def found(self, findings: Iterable[Finding], covered: frozenset[tuple[str, str]]) -> None:
        """`findings` stand; of what stood before, what was `covered` (entity, code) and not found again has ended."""
        fresh = {(finding.entity, finding.code): finding for finding in findings}
        left = [
            finding
            for finding in self.standing
            if (key := (finding.entity, finding.code)) not in covered and key not in fresh
        ]
        self.standing = (*left, *fresh.values())


def load(path: Path) -> CheckRecord:
    """What was kept; a fresh record when there is none that can be understood: nothing is concluded from it then."""
    try:
        body = json.loads(path.read_bytes())
        return CheckRecord(
            {str(name): float(value) for name, value in body["best"].items()},
            tuple(Finding(row["entity"], row["code"], row["message"]) for row in body["standing"]),
            float(body["checked_unix_s"]),
            str(body["reboot_asked_in"]),
            float(body["preflight_unix_s"]),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return CheckRecord()


def save(path: Path, record: CheckRecord) -> None:
    """Keep it. Raises OSError."""
    replace_file(path, json.dumps(asdict(record), indent=1).encode(), sync=True)
