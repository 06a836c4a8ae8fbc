"""Where failures hit that are not simply one rank's: nodes beside the job, racks, nodes that were repaired."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from controlplane.core.jobs import NONE
from controlplane.sim.ettr.conduct import Cause
from controlplane.sim.gang import Gang


def idle_node(gang: Gang, where: float) -> None:
    """A node that holds no rank fails; `where` in [0, 1) chooses among them."""
    gang.strike(_idle(gang, where), Cause.DEVICE)


def rack_of_rank(gang: Gang, rank: int) -> None:
    """The rack that a rank stands in is gone without a word; nothing happens while the rank has no place."""
    node = int(gang.job.rank_node[rank])
    gang.strike(_rack_of(gang, [node] if node != NONE else []), Cause.SILENCE)


def idle_rack(gang: Gang, where: float) -> None:
    """The rack of a node that holds no rank is gone; `where` in [0, 1) chooses among them."""
    gang.strike(_rack_of(gang, _idle(gang, where)), Cause.SILENCE)


def repaired_node(gang: Gang, node: int) -> None:
    """A device of a node that was repaired goes again, wherever the node serves by now."""
    held = gang.job.per_node()
    if node not in gang.broken and node < len(held) and held[node]:
        gang.tally.again += 1
    gang.strike([node], Cause.DEVICE)


def _idle(gang: Gang, where: float) -> list[int]:
    holds = np.zeros(gang.shape.size, dtype=np.bool_)
    holds[list(gang.job.nodes())] = True
    idle = np.flatnonzero(~holds)
    return [int(idle[int(where * len(idle))])] if len(idle) else []


def _rack_of(gang: Gang, nodes: Sequence[int]) -> list[int]:
    size = gang.shape.rack_nodes
    firsts = [node // size * size for node in nodes]
    return [node for first in firsts for node in range(first, min(first + size, gang.shape.size))]
