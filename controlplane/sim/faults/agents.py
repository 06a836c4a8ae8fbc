"""What happens to the product's own helpers: node agents, relays, the cell agent and its Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlplane.core import events as ev
from controlplane.sim.faults.catalogue import Aim, NothingThere, Strike, Undo, kind
from controlplane.sim.world.agents import OLDER_VERSION
from controlplane.sim.world.nodes import SimNode

if TYPE_CHECKING:
    from controlplane.sim.world.site import World


def _living(world: World, target: str) -> SimNode:
    node = world.nodes.get(target)
    if node is None or not (node.up and node.agent and node.link.up and node.link.down):
        raise NothingThere(target)
    return node


@kind("agent_crash", Aim.NODE, 10.0)
def agent_crash(world: World, strike: Strike) -> Undo | None:
    """The agent's process dies and is started again; its ranks go on."""
    node = _living(world, strike.target)
    world.lose_agent(node.name)
    return lambda: world.return_agent(node.name) if node.up and not node.agent else None


@kind("agent_hang", Aim.NODE, 30.0)
def agent_hang(world: World, strike: Strike) -> Undo | None:
    """The agent's process stands still: its stream stays open, it neither beats nor obeys."""
    node = _living(world, strike.target)
    world.freeze(node.name)
    return lambda: world.thaw(node.name) if node.up and node.frozen else None


@kind("agent_deaf", Aim.NODE, 1_200.0)
def agent_deaf(world: World, strike: Strike) -> Undo | None:
    """The part of an agent that carries orders out hangs (a dead mount): it beats and reports, takes orders, and does none of
    them, then or later."""
    node = _living(world, strike.target)
    if node.deaf:
        raise NothingThere(strike.target)
    node.deaf = True

    def hears() -> None:
        node.deaf = False

    return hears


@kind("zombie", Aim.NODE, 60.0)
def zombie(world: World, strike: Strike) -> Undo | None:
    """A node is cut off, its raylet included, until others have its ranks; then it is back with the old ones alive."""
    node = _living(world, strike.target)
    world.isolate([node])
    return lambda: world.reconnect([node])


@kind("duplicate_identity", Aim.NODE, 60.0, every_s=(5.0, 0.5, 60.0), newer=(0, 0, 1))
def duplicate_identity(world: World, strike: Strike) -> Undo | None:
    """A second agent with a node's name and an older boot says hello again and again, as one from a copied image does.
    `newer`: the agent was started twice on its machine; the second one takes over, and the first one goes on trying."""
    node = _living(world, strike.target)
    older = node.boot_id if strike.parameters["newer"] else "0000"
    if strike.parameters["newer"]:
        world.return_agent(node.name)
    ends_ns = world.now_ns + round(strike.duration_s * 1e9)

    def claim() -> None:
        leader = world.control.leader
        if leader is not None:
            event = ev.NodeHello(node.name, older, node.labels, "10.9.9.9", node.version, (), node.devices())
            leader.tell(event, world.count_refusal)
        if world.now_ns < ends_ns:
            world.kernel.after(strike.parameters["every_s"], claim)

    claim()
    return None


@kind("version_skew", Aim.NODE, 1_800.0)
def version_skew(world: World, strike: Strike) -> Undo | None:
    """An older agent runs on a node: it knows no checks of nodes or checkpoints and no sweeping, and says so when it is asked."""
    node = _living(world, strike.target)

    def become(version: str) -> None:
        node.knows_checks = version != OLDER_VERSION
        if node.up and node.agent:
            world.lose_agent(node.name)
            node.version = version
            world.return_agent(node.name)
        else:
            node.version = version

    become(OLDER_VERSION)
    return lambda: become("0")


@kind("relay", Aim.RELAY, 5.0)
def relay(world: World, strike: Strike) -> Undo | None:
    """A relay dies: all streams through it end at once, and its agents dial again when another one has taken over."""
    lost = world.relays.lose(strike.target)
    if not lost:
        raise NothingThere(strike.target)
    return lambda: world.relays.take_over(strike.target)


@kind("cell_agent", Aim.SITE, 30.0)
def cell_agent(world: World, strike: Strike) -> Undo | None:
    """The cell agent's stream ends for a while: nothing can be started, ranks run on."""
    if not world.cell.open:
        raise NothingThere("the cell agent is away already")
    world.cell.lose()
    return world.cell.hello


@kind("cell", Aim.SITE, 60.0)
def cell(world: World, strike: Strike) -> Undo | None:
    """The whole Ray cluster ends and starts anew: every process that it had started is gone with it."""
    if not world.cell.open:
        raise NothingThere("the cell is away already")
    world.cell.collapse()
    return world.cell.start_anew
