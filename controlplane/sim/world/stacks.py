"""What agents of the simulated world find when they are asked where the ranks of a job stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from controlplane.core.effects import Effect
from controlplane.core.health.standstill import Calls, Stacks
from controlplane.core.vocabulary import RankState

if TYPE_CHECKING:
    from controlplane.sim.world.nodes import Process, SimNode
    from controlplane.sim.world.site import World

PLACES = (
    "train.py:step < train.py:main (in group.py:all_reduce)",
    "data.py:load < train.py:main",
    "train.py:main (in generation.py:next_assignment)",
)
"""Of a rank that waits for the others, of one that hangs, and of one that waits for its next generation."""
INSIDE, OUTSIDE, PAUSED = range(3)


def stacks_of(world: World, node: SimNode, effect: Effect) -> Stacks:
    """Where the ranks of a job on a node really stand. Who hangs has not begun the collective that the others wait in."""
    gang = world.gangs.newest.get(effect.job)
    here: list[Process] = [
        process
        for process in node.live()
        if process.job == effect.job and process.generation == effect.generation and process.rank >= 0
    ]
    here.sort(key=lambda process: process.rank)
    rank = np.array([process.rank for process in here], dtype=np.int64)
    place = np.array([_place(process) for process in here], dtype=np.int64)
    steps = world.gangs.step(effect.job)
    moving = gang is not None and gang.moving
    zero = np.zeros(len(here), dtype=np.int64)
    issued = steps + (place == INSIDE)
    inside = place == INSIDE
    return Stacks(
        rank, place, inside, np.zeros(len(here), dtype=np.bool_), np.full(len(here), moving), PLACES,
        Calls(rank, zero, zero, issued, inside), ("world:",), ("all_reduce",),
    )  # fmt: skip


def _place(process: Process) -> int:
    if not process.works:
        return OUTSIDE
    return PAUSED if process.state is RankState.PAUSED else INSIDE
