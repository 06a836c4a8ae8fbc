"""What makes parts of machines ill without ending them: fault codes of every handling level, and links between machines."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from controlplane.catalogues import built_in
from controlplane.core import events as ev
from controlplane.core.vocabulary import Assertion
from controlplane.sim.faults.catalogue import Aim, NothingThere, Strike, Undo, kind
from controlplane.sim.world.nodes import SimNode

if TYPE_CHECKING:
    from controlplane.sim.world.site import World

CODES = tuple(sorted(rule.code for rule in built_in().rules.values()))
"""Codes of the simulated table, one for each handling level and rule."""
UNHEARD_OF = "BOARD-7"
"""A code that is in no table."""


def _well(world: World, target: str, entity: str) -> SimNode:
    node = world.nodes.get(target)
    if node is None or not node.up or entity in node.events:
        raise NothingThere(target)
    return node


def _over(world: World, node: SimNode, row: ev.FaultRow) -> None:
    """The fault recovers by itself, unless checks have ended it before."""
    if node.up and node.events.get(row.entity) == row:
        world.agents.raise_fault(node, ev.FaultRow(row.entity, row.code, row.vendor, assertion=Assertion.RECOVERED))


@kind("device_code", Aim.DEVICE, 600.0, incurable=(0, 0, 1))
def device_code(world: World, strike: Strike) -> Undo | None:
    """A device reports a code of any handling level for a while (`code`; drawn where none is given). `incurable`: checks find
    it still there."""
    name, _, index = strike.target.rpartition("/")
    node = world.nodes.get(name)
    position = int(index)
    if node is None or not node.up or position in node.faults:
        raise NothingThere(strike.target)
    code = strike.code or strike.random.choice(CODES)
    node.incurable |= bool(strike.parameters["incurable"])
    world.set_fault(name, position, code)

    def over() -> None:
        node.incurable = False
        if node.faults.get(position) == code:
            world.set_fault(name, position, "")

    return over


@kind("node_code", Aim.NODE, 600.0, incurable=(0, 0, 1), old_agent=(0, 0, 1))
def node_code(world: World, strike: Strike) -> Undo | None:
    """A machine reports a fault of its own for a while (`code`, a code that is in no table by default). `incurable`: checks
    find it still there; `old_agent`: its agent does not know checks."""
    node = _well(world, strike.target, "node")
    row = ev.FaultRow("node", strike.code or UNHEARD_OF, "simulated")
    node.incurable |= bool(strike.parameters["incurable"])
    node.knows_checks &= not strike.parameters["old_agent"]
    world.agents.raise_fault(node, row)

    def over() -> None:
        node.incurable, node.knows_checks = False, True
        _over(world, node, row)

    return over


@kind("code_once", Aim.DEVICE, times=(3, 1, 20), period_s=(60.0, 0.1, 3_600.0))
def code_once(world: World, strike: Strike) -> Undo | None:
    """Something happens to a device several times and leaves nothing standing (`code`, SIM-ECC by default)."""
    name, _, index = strike.target.rpartition("/")
    node = world.nodes.get(name)
    if node is None or not node.up:
        raise NothingThere(strike.target)
    row = ev.FaultRow(f"accelerator/{index}", strike.code or "SIM-ECC", "simulated", assertion=Assertion.ONCE)
    for number in range(int(strike.parameters["times"])):
        tell = partial(world.agents.raise_fault, node, row)
        world.kernel.after(number * strike.parameters["period_s"], tell)
    return None


@kind("job_code", Aim.JOB, 60.0, devices=(4, 1, 64))
def job_code(world: World, strike: Strike) -> Undo | None:
    """A job makes several of its devices report the same code at once (`code`, SIM-MEMORY by default)."""
    leader = world.control.leader
    job = leader.state.jobs.get(strike.target) if leader is not None else None
    if leader is None or job is None or not job.placed:
        raise NothingThere(strike.target)
    code = strike.code or "SIM-MEMORY"
    struck = []
    ranks = [rank for rank in range(job.spec.ranks) if job.rank_node[rank] >= 0]
    for rank in strike.random.sample(ranks, min(len(ranks), int(strike.parameters["devices"]))):
        name, position = leader.state.fleet.name(int(job.rank_node[rank])), int(job.rank_acc[rank][0])
        if world.nodes[name].up and position not in world.nodes[name].faults:
            world.set_fault(name, position, code)
            struck.append((name, position))
    if not struck:
        raise NothingThere(strike.target)

    def over() -> None:
        for name, position in struck:
            if world.nodes[name].faults.get(position) == code:
                world.set_fault(name, position, "")

    return over


@kind("unlinked", Aim.NODE, 300.0)
def unlinked(world: World, strike: Strike) -> Undo | None:
    """A machine loses its links to the controller and to its peers, and two peers say so."""
    node = _well(world, strike.target, "")
    peers = [peer for peer in world.nodes.values() if peer.talks and peer is not node]
    if len(peers) < 2:
        raise NothingThere("nobody to say so")
    witnesses = strike.random.sample(peers, 2)
    world.freeze(node.name)
    world.gangs.cut_apart([node])

    def say(names: tuple[str, ...]) -> None:
        for peer in witnesses:
            world.agents.tell([(peer, ev.NodeReport(peer.name, peer.boot_id, broken_links=names))])

    say((node.name,))

    def over() -> None:
        if node.up:
            world.thaw(node.name)
        say(())

    return over
