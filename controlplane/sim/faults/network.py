"""What happens between agents and the controller: late, lost, doubled, cut in one direction or in both."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from controlplane.sim.faults.catalogue import Aim, NothingThere, Strike, Undo, kind, together
from controlplane.sim.world.nodes import SimNode

if TYPE_CHECKING:
    from controlplane.sim.world.site import World


def _whole(world: World, target: str) -> SimNode:
    node = world.nodes.get(target)
    if node is None or not (node.up and node.agent and node.link.up and node.link.down):
        raise NothingThere(target)
    return node


def _heal(world: World, node: SimNode) -> None:
    if node.up and not (node.link.up and node.link.down):
        world.thaw(node.name)


@kind("network_delay", Aim.NODE, 300.0, delay_s=(0.2, 0.0, 60.0), jitter_s=(0.2, 0.0, 60.0))
def network_delay(world: World, strike: Strike) -> Undo | None:
    """Messages of a node take longer, each a different time."""
    link = _whole(world, strike.target).link
    link.delay_s, link.jitter_s = strike.parameters["delay_s"], strike.parameters["jitter_s"]

    def end() -> None:
        link.delay_s = link.jitter_s = 0.0

    return end


@kind("network_drop", Aim.NODE, 300.0, share=(0.3, 0.0, 1.0))
def network_drop(world: World, strike: Strike) -> Undo | None:
    """A share of a node's messages is lost; each loss breaks the stream, and the agent dials again."""
    link = _whole(world, strike.target).link
    link.drop_share = strike.parameters["share"]

    def end() -> None:
        link.drop_share = 0.0

    return end


@kind("network_duplicate", Aim.NODE, 300.0, share=(0.3, 0.0, 1.0))
def network_duplicate(world: World, strike: Strike) -> Undo | None:
    """A share of a node's messages arrives twice, as after a repeat that was not needed."""
    link = _whole(world, strike.target).link
    link.duplicate_share = strike.parameters["share"]

    def end() -> None:
        link.duplicate_share = 0.0

    return end


@kind("network_reorder", Aim.SITE, 300.0, jitter_s=(1.0, 0.01, 30.0))
def network_reorder(world: World, strike: Strike) -> Undo | None:
    """What different nodes say overtakes each other by up to `jitter_s`; a stream of its own keeps its order."""
    links = [node.link for node in world.nodes.values() if node.up]
    for link in links:
        link.jitter_s = strike.parameters["jitter_s"]

    def end() -> None:
        for link in links:
            link.jitter_s = 0.0

    return end


@kind("partition", Aim.NODE, 20.0)
def partition(world: World, strike: Strike) -> Undo | None:
    """Nothing of a node gets through in either direction, its stream stays open, its ranks go on."""
    node = _whole(world, strike.target)
    world.freeze(node.name)
    return lambda: _heal(world, node)


@kind("partition_up", Aim.NODE, 20.0)
def partition_up(world: World, strike: Strike) -> Undo | None:
    """One way: what the agent says gets lost, what it is told arrives."""
    node = _whole(world, strike.target)
    world.cut(node.name, up=True)
    return lambda: _heal(world, node)


@kind("partition_down", Aim.NODE, 20.0)
def partition_down(world: World, strike: Strike) -> Undo | None:
    """One way: what the agent says arrives, what it is told gets lost."""
    node = _whole(world, strike.target)
    world.cut(node.name, down=True)
    return lambda: _heal(world, node)


@kind("scattered_silence", Aim.SITE, 20.0, share=(0.3, 0.01, 1.0))
def scattered_silence(world: World, strike: Strike) -> Undo | None:
    """Many nodes all over the site fall silent at once, and nothing is wrong with them: the controller's own path."""
    open_ = [node for node in world.nodes.values() if node.up and node.agent and not node.frozen]
    if not open_:
        raise NothingThere("no node is heard")
    chosen = strike.random.sample(open_, max(1, round(len(open_) * strike.parameters["share"])))
    for node in chosen:
        world.freeze(node.name)
    return together([partial(_heal, world, node) for node in chosen])


@kind("half_open", Aim.NODE, 60.0)
def half_open(world: World, strike: Strike) -> Undo | None:
    """The agent's machine forgets its connection and nobody tells the controller: the agent dials again much later."""
    node = _whole(world, strike.target)
    world.agents.end_session(node, "half open", seen=False)
    return lambda: world.agents.hello(node) if not node.session else None
