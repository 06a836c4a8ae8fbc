"""Messages between agents and controllers: late, lost, twice, never in another order within one stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from controlplane.core.units import seconds

if TYPE_CHECKING:
    from controlplane.sim.world.nodes import SimNode
    from controlplane.sim.world.site import World


class Network:
    """Carries messages of one node's stream. What is lost breaks the stream: TCP loses nothing silently."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dropped = 0
        self.duplicated = 0

    def up(self, node: SimNode, deliver: Callable[[], None]) -> None:
        """A message of the agent to the controller."""
        if node.link.up:
            self._carry(node, deliver)

    def down(self, node: SimNode, deliver: Callable[[], None]) -> None:
        """A message of the controller to the agent."""
        if node.link.down:
            self._carry(node, deliver)

    def _carry(self, node: SimNode, deliver: Callable[[], None]) -> None:
        link = node.link
        if link.calm:
            deliver()
            return
        chance = self.world.kernel.stream(f"network/{node.name}")
        if link.drop_share and chance.random() < link.drop_share:
            self.dropped += 1
            self.world.agents.reset(node, "the connection broke")
            return
        if link.duplicate_share and chance.random() < link.duplicate_share:
            self.duplicated += 1
            self._later(node, deliver, chance.random() * link.jitter_s)
        self._later(node, deliver, chance.random() * link.jitter_s)

    def _later(self, node: SimNode, deliver: Callable[[], None], jitter_s: float) -> None:
        link, kernel = node.link, self.world.kernel
        at_ns = max(kernel.now_ns + seconds(link.delay_s + jitter_s), link.arrives_ns)
        link.arrives_ns = at_ns
        if at_ns <= kernel.now_ns:
            link.arrives_ns = 0
            deliver()
            return
        kernel.at(at_ns, deliver)
