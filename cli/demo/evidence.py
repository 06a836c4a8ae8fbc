"""What the demo measured, the checks on it, and `report.json` (its schema is in docs/demo.md). Pure but for reading
the files that the trainer wrote.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.demo.script import DISTURBED, EVERY, REFERENCE, REQUIRED_LOSS_SHARE, Fault, is_between_checkpoints

if TYPE_CHECKING:
    from phalanx.v1 import job_pb2

PHASES = ("detect", "decide", "place", "start", "rendezvous", "restore", "first_step")
EDGE_STEPS = 10


@dataclass(frozen=True, slots=True)
class Point:
    """One step as rank 0 wrote it; a step that was done again appears again with a later generation."""

    step: int
    loss: float
    wall_s: float
    generation: int


@dataclass(slots=True)
class Run:
    """One finished job."""

    name: str
    job: job_pb2.Job
    curve: tuple[Point, ...]
    wall_s: float

    @property
    def sha256(self) -> str:
        """Hash over all parameters, buffers and optimizer state."""
        return str(self.job.result.get("weights_sha256", ""))

    def as_report(self) -> dict[str, Any]:
        """The run in `report.json`."""
        return {
            "name": self.name,
            "steps": int(self.job.result.get("steps", self.job.step)),
            "weights_sha256": self.sha256,
            "final_loss": self.curve[-1].loss if self.curve else None,
            "recoveries": [
                {
                    "cause": recovery.cause,
                    "rung": recovery.rung,
                    "steps_lost": int(recovery.steps_lost),
                    "phases_s": {
                        name: round(recovery.phases_s[name], 6) for name in PHASES if name in recovery.phases_s
                    },
                    "generation": int(recovery.generation),
                    "ranks": list(recovery.ranks),
                    "restore_step": int(recovery.restore_step),
                    "total_s": round(recovery.total_s, 6),
                    "complete": recovery.complete,
                }
                for recovery in self.job.recoveries
            ],
            "ledger_s": {name: round(value, 6) for name, value in sorted(self.job.ledger_s.items())},
            "ettr": round(self.job.ettr, 6),
            "wall_s": round(self.wall_s, 3),
        }


@dataclass(frozen=True, slots=True)
class Check:
    """One thing the demo claims, and whether it holds."""

    name: str
    ok: bool
    detail: str


@dataclass(slots=True)
class Evidence:
    """Everything that the demo measured."""

    seed: int
    runs: dict[str, Run] = field(default_factory=dict)
    controls: list[dict[str, Any]] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    site_ledger_s: dict[str, float] = field(default_factory=dict)
    sample: str = ""
    wall_s: float = 0.0

    @property
    def identical(self) -> bool:
        """Whether both runs ended with the same weights."""
        hashes = {self.runs[name].sha256 for name in (REFERENCE, DISTURBED)}
        return len(hashes) == 1 and "" not in hashes

    def add_fault(self, fault: Fault, struck_at: int, target: str) -> None:
        """Notes a fault that was injected."""
        self.faults.append({"kind": fault.kind, "planned_step": fault.step, "step": struck_at, "target": target})

    def add_control(self, name: str, says: str, run: Run) -> None:
        """Notes a negative control."""
        other = self.runs[REFERENCE].sha256
        differs = bool(run.sha256) and run.sha256 != other
        self.controls.append({"name": name, "change": says, "weights_sha256": run.sha256, "differs": differs})


def read_curve(path: Path) -> tuple[Point, ...]:
    """The points of a metrics file; a line that a killed process left half-written is skipped."""
    points: list[Point] = []
    if not path.exists():
        return ()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            points.append(Point(int(row["step"]), float(row["loss"]), float(row["wall_s"]), int(row["generation"])))
        except (ValueError, KeyError, TypeError):
            continue
    return tuple(points)


def loss_fell_by(curve: tuple[Point, ...]) -> float:
    """Share by which the mean loss of the last steps lies below that of the first ones."""
    final = {point.step: point.loss for point in curve}  # of a step done twice, the one that counted
    losses = [final[step] for step in sorted(final)]
    if len(losses) < 2 * EDGE_STEPS:
        return 0.0
    first, last = sum(losses[:EDGE_STEPS]) / EDGE_STEPS, sum(losses[-EDGE_STEPS:]) / EDGE_STEPS
    return 1 - last / first


def checks(evidence: Evidence) -> list[Check]:
    """Every claim of the demo."""
    reference, disturbed = evidence.runs[REFERENCE], evidence.runs[DISTURBED]
    recoveries = list(disturbed.job.recoveries)
    lost = [int(recovery.steps_lost) for recovery in recoveries]
    struck = [int(fault["step"]) for fault in evidence.faults]
    fell = loss_fell_by(disturbed.curve)
    same = "the same" if evidence.identical else f"{disturbed.sha256[:16]} is not {reference.sha256[:16]}"
    ended = all(recovery.complete or recovery.overtaken for recovery in recoveries)
    undisturbed = not reference.job.recoveries
    between = all(map(is_between_checkpoints, struck))
    share = f"{REQUIRED_LOSS_SHARE:.0%}"
    return [
        Check("the disturbed run ends with the undisturbed run's weights", evidence.identical, same),
        Check("the undisturbed run was not disturbed", undisturbed, f"{len(reference.job.recoveries)} recoveries"),
        Check("both faults struck", len(struck) == 2, f"after steps {struck}"),
        Check("they struck strictly between checkpoints", between, f"a checkpoint every {EVERY} steps"),
        Check("each was recovered from", ended and len(recoveries) >= len(struck), f"{len(recoveries)} recoveries"),
        Check("at most one step was done again for each", all(one <= 1 for one in lost), f"steps done again {lost}"),
        Check(f"the loss fell by at least {share}", fell >= REQUIRED_LOSS_SHARE, f"{fell:.1%}"),
        *(
            Check(f"{item['change']} gives other weights", item["differs"], item["weights_sha256"][:16])
            for item in evidence.controls
        ),
    ]


def report(evidence: Evidence) -> dict[str, Any]:
    """The document that is written as `report.json`."""
    results = checks(evidence)
    return {
        "version": 1,
        "seed": evidence.seed,
        "runs": [evidence.runs[name].as_report() for name in (REFERENCE, DISTURBED)],
        "identical": evidence.identical,
        "controls": evidence.controls,
        "faults": evidence.faults,
        "checks": [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in results],
        "passed": all(check.ok for check in results),
        "loss_fell_by": round(loss_fell_by(evidence.runs[DISTURBED].curve), 6),
        "site_ledger_s": {name: round(value, 6) for name, value in sorted(evidence.site_ledger_s.items())},
        "sample": evidence.sample,
        "wall_s": round(evidence.wall_s, 3),
    }
