"""Memory copies in the simulated world: jobs in `World.keeps_copies` have theirs at the node that the core's plan names.

A closed form: every rank's state is copied after each step, so that what is held is the newest step by whoever is still
there. A node that lost its power has lost what it held, also when it is back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from controlplane.core.fleet import Fleet
from controlplane.core.recovery.copies import NOBODY, place_copies, sites_of
from controlplane.core.recovery.restore_point import Copies, Tier

if TYPE_CHECKING:
    from controlplane.sim.world.site import World


def held(world: World, fleet: Fleet, uid: str) -> Copies:
    """What is held of a job's newest step: its own state by each rank that has not ended, a copy by each holder's node."""
    gang = world.gangs.newest.get(uid)
    if gang is None or gang.name not in world.keeps_copies or not gang.members:
        return Copies.none()
    ranks = world.job(uid).spec.ranks
    rank_node = np.full(ranks, NOBODY, dtype=np.int32)
    alive = np.zeros(ranks, dtype=bool)
    for rank, process in gang.members.items():
        number = fleet.number(process.node)
        rank_node[rank] = NOBODY if number is None else number
        alive[rank] = process.exit is None
    plan = place_copies(sites_of(rank_node, world.job(uid).spec.parallel, fleet.domains))
    holders = np.full(fleet.size + 1, NOBODY, dtype=np.int32)  # the last one stands for NOBODY
    holders[plan.node] = plan.holder
    holder = holders[rank_node]
    burnt = {process.node for process in gang.members.values() if process.exit and not process.exit.observed}
    up = np.array([world.nodes[facts.name].up and facts.name not in burnt for facts in fleet.facts])
    step = world.gangs.step(uid)
    return Copies(
        step=np.full((ranks, 2), step, dtype=np.int64),
        owner=np.stack([rank_node, holder], axis=1),
        tier=np.broadcast_to(np.array([Tier.SURVIVOR, Tier.MEMORY], dtype=np.uint8), (ranks, 2)),
        intact=np.stack([alive, (holder >= 0) & up[np.maximum(holder, 0)]], axis=1),
    )
