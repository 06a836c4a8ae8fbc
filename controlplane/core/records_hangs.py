"""Durable records of gangs that stand still; see `records`, which names them all."""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.core.health.standstill import StackGroup, Verdict


@dataclass(frozen=True, slots=True)
class HangSuspected:
    """A running job has made no step since `since_ns` (Unix ns), for longer than `limit_ns`: its agents are asked where its ranks
    stand, by this effect."""

    job: str
    generation: int
    since_ns: int
    limit_ns: int
    effect: str


@dataclass(frozen=True, slots=True)
class HangJudged:
    """What was found. `ranks`: those that hang; `groups`: all ranks by where they stand. `again_ns`: it is looked at again then,
    Unix ns; 0: this look was the last. `step`: the newest one that was made."""

    job: str
    generation: int
    verdict: Verdict
    reason: str
    ranks: tuple[int, ...] = ()
    groups: tuple[StackGroup, ...] = ()
    again_ns: int = 0
    step: int = 0
