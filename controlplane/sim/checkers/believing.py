"""Not one of S1 to S12, and the worst that a controller can do: kill what lives because it cannot see.

"Many silent at once, scattered, no witness: *we* are the suspect. UNKNOWN for all, no act" (docs/language.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from controlplane.core import records as r
from controlplane.core.fleet import DOMAIN_KINDS
from controlplane.core.state import State
from controlplane.core.units import seconds
from controlplane.core.vocabulary import NodeLiveness
from controlplane.sim.checkers.base import Checker, Durable, Finding
from controlplane.sim.checkers.book import Book

if TYPE_CHECKING:
    from controlplane.sim.world.nodes import SimNode
    from controlplane.sim.world.site import World

MANY = 3
"""As many living nodes as this, of more than one rack, are never judged dead in one turn when nobody testified..."""

SHARE = 0.05
"""...and as this share of all that are not DEAD: fewer are no crowd, and the long time-out judges each by itself."""

DOMAIN_WITNESSES = 2
"""A failure domain is lost with all that are silent in it when so many of its nodes were seen to die."""

LINK_WITNESSES = 2
"""One node alone may have lost its own links (docs/language.md: peers' links)."""

NEAR_S = 60.0
"""A raylet that left so long before its node fell silent says nothing of the silence: a machine that is gone leaves the cell
within that time."""


def _place(kind: str, node: SimNode) -> str:
    """Failure domain of a kind in which a node is, "" without."""
    return node.rack if kind == "rack" else dict(node.labels).get(kind, "")


class SilenceKillsNobody(Checker):
    """Nodes that live are not judged DEAD many at once across failure domains, when no raylet left the cell near the silence."""

    invariant = "believing"
    watches = (r.LivenessChanged, r.LinksReported, r.CellMembershipChanged)

    def __init__(self) -> None:
        self._judged: list[str] = []
        self._with_domain: list[tuple[tuple[str, ...], int]] = []
        self._witnessed_ns: dict[str, int] = {}
        self._broken: dict[str, tuple[str, ...]] = {}
        self._left_ns: dict[str, int] = {}
        self._silent_ns: dict[str, int] = {}

    def record(self, seen: Durable, book: Book) -> Iterator[Finding]:
        """Collect the dead of one turn that no raylet testified against, and whose links are called broken."""
        match seen.record:
            case r.LinksReported(node=witness, broken=broken):
                self._broken[witness] = broken
            case r.CellMembershipChanged(joined=joined, left=left):
                self._left_ns.update(dict.fromkeys(left, seen.at_ns))
                for name in joined:
                    self._left_ns.pop(name, None)
            case r.LivenessChanged(nodes=nodes, liveness=NodeLiveness.ALIVE, path_broken=False):
                for name in nodes:
                    self._silent_ns.pop(name, None)
            case r.LivenessChanged(nodes=nodes, liveness=verdict, evidence=evidence):
                for name in nodes:
                    self._silent_ns.setdefault(name, seen.at_ns)
                if verdict is NodeLiveness.DEAD:
                    if "failure domain" in evidence:
                        self._with_domain.append((nodes, seen.at_ns))
                    elif evidence != ("lease",):
                        self._witnessed_ns.update(dict.fromkeys(nodes, seen.at_ns))
                    self._judged.extend(name for name in nodes if not self._testified(name))
            case _:
                pass
        return iter(())

    def _testified(self, name: str) -> bool:
        """Whether a node's raylet left the cell near the time at which the node was first found silent, or later."""
        left_ns = self._left_ns.get(name)
        return left_ns is not None and left_ns >= self._silent_ns[name] - seconds(NEAR_S)

    def turn(self, after: State, book: Book, world: World) -> Iterator[Finding]:
        """Compare them with the truth."""
        judged, self._judged = self._judged, []
        with_domain, self._with_domain = self._with_domain, []
        lost = {name for names, at_ns in with_domain if self._fell_together(names, at_ns, world) for name in names}
        judged = [name for name in judged if name not in lost]
        many = max(MANY, SHARE * (len(judged) + sum(line.liveness is not NodeLiveness.DEAD for line in book.nodes)))
        if len(judged) < many:
            return
        alive = [name for name in judged if self._lives(name, world)]
        racks = {world.nodes[name].rack for name in alive}
        if len(alive) >= many and len(racks) > 1:
            text = f"{len(alive)} living nodes of {len(racks)} racks were judged DEAD at once: {alive[:8]}"
            yield Finding(alive[0], text)

    def _fell_together(self, names: tuple[str, ...], at_ns: int, world: World) -> bool:
        """Whether one failure domain holds all of them, and enough others that a witness had called dead at that time."""
        fell = [name for name, dead_ns in self._witnessed_ns.items() if dead_ns >= at_ns - seconds(NEAR_S)]
        for kind in DOMAIN_KINDS:
            places = {_place(kind, world.nodes[name]) for name in names}
            beside = sum(_place(kind, world.nodes[name]) in places for name in fell)
            if len(places) == 1 and "" not in places and beside >= DOMAIN_WITNESSES:
                return True
        return False

    def _lives(self, name: str, world: World) -> bool:
        """Whether a machine works, in the cell or known to be out of it, and nobody says that its links are broken."""
        node = world.nodes[name]
        return node.up and (node.raylet or name in self._left_ns) and not self._cut_off(name, world)

    def _cut_off(self, name: str, world: World) -> bool:
        """Whether its path to the controller is broken, and enough nodes whose own is whole say that links to it are."""
        heard = sum(name in broken and world.nodes[witness].link.up for witness, broken in self._broken.items())
        return not world.nodes[name].link.up and heard >= LINK_WITNESSES
