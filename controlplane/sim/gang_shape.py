"""How large a gang's site is, and what is counted of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from controlplane.sim.ettr.conduct import Cause


@dataclass(frozen=True, slots=True)
class Shape:
    """Size of the site: nodes of the job, and of the pool beside it. A `rank` may be one accelerator or a whole node."""

    nodes: int
    pool: int
    ranks_per_node: int = 1
    accelerators: int = 8
    rack_nodes: int = 32

    def __post_init__(self) -> None:
        if min(self.nodes, self.ranks_per_node, self.accelerators, self.rack_nodes) < 1 or self.pool < 0:
            raise ValueError(f"{self}: every size must be at least 1, the pool at least 0")
        if self.accelerators % self.ranks_per_node:
            raise ValueError(f"{self}: {self.accelerators} accelerators are no multiple of {self.ranks_per_node} ranks")

    @property
    def size(self) -> int:
        """Nodes of the site."""
        return self.nodes + self.pool


@dataclass(slots=True)
class Tally:
    """What happened in a run. `rungs`: recoveries decided, by rung. `down_s`: seconds without progress, by first cause.
    `again`: failures of the job that came from nodes which had just been repaired."""

    strikes: dict[Cause, int] = field(default_factory=dict)
    rungs: dict[str, int] = field(default_factory=dict)
    down_s: dict[Cause, float] = field(default_factory=dict)
    lost_steps: int = 0
    turns: int = 0
    ticks: int = 0
    generations: int = 0
    unmet: int = 0
    again: int = 0
