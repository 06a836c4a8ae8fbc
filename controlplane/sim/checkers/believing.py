"""Not one of S1 to S12, and the worst that a controller can do: kill what lives because it cannot see.

"Many silent at once, scattered, no witness: *we* are the suspect. UNKNOWN for all, no act" (docs/language.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from controlplane.core import records as r
from controlplane.core.state import State
from controlplane.core.vocabulary import NodeLiveness
from controlplane.sim.checkers.base import Checker, Durable, Finding
from controlplane.sim.checkers.book import Book

if TYPE_CHECKING:
    from controlplane.sim.world.site import World

MANY = 3
"""As many living nodes as this, of more than one rack, are never judged dead in one turn when nobody testified."""

LINK_WITNESSES = 2
"""One node alone may have lost its own links (docs/language.md: peers' links)."""


class SilenceKillsNobody(Checker):
    """Nodes that live, with their raylets in the cell, are not judged DEAD many at once across failure domains."""

    invariant = "believing"
    watches = (r.LivenessChanged, r.LinksReported)

    def __init__(self) -> None:
        self._judged: list[str] = []
        self._broken: dict[str, tuple[str, ...]] = {}

    def record(self, seen: Durable, book: Book) -> Iterator[Finding]:
        """Collect the dead of one turn that no raylet testified against, and whose links are called broken."""
        record = seen.record
        if isinstance(record, r.LinksReported):
            self._broken[record.node] = record.broken
            return
        assert isinstance(record, r.LivenessChanged)
        if record.liveness is NodeLiveness.DEAD:
            self._judged.extend(name for name in record.nodes if book.node(name).member)
        return
        yield

    def turn(self, after: State, book: Book, world: World) -> Iterator[Finding]:
        """Compare them with the truth."""
        judged, self._judged = self._judged, []
        if len(judged) < MANY:
            return
        alive = [
            name
            for name in judged
            if world.nodes[name].up and world.nodes[name].raylet and not self._cut_off(name, world)
        ]
        racks = Counter(world.nodes[name].rack for name in alive)
        if len(alive) >= MANY and len(racks) > 1:
            yield Finding(
                alive[0], f"{len(alive)} living nodes of {len(racks)} racks were judged DEAD at once: {alive[:8]}"
            )

    def _cut_off(self, name: str, world: World) -> bool:
        """Whether its path to the controller is broken, and enough nodes whose own is whole say that links to it are."""
        heard = sum(name in broken and world.nodes[witness].link.up for witness, broken in self._broken.items())
        return not world.nodes[name].link.up and heard >= LINK_WITNESSES
