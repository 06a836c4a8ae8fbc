"""Where each node stands on the map: groups of cells, as fine as the space allows. No drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from itertools import groupby

from cli.top.conditions import TROUBLE, Condition, summary
from cli.top.fleet import NodeRow

MAX_TITLE = 16
GAP = 2
"""Columns between groups that stand side by side."""


class Level(IntEnum):
    """What one cell of the map stands for."""

    NODE = 0
    RACK = 1
    SUPERPOD = 2


@dataclass(frozen=True, slots=True)
class Scope:
    """The part of the site that the map shows. Empty: everything."""

    superpod: str = ""
    rack: str = ""

    def holds(self, other: Scope) -> bool:
        """Whether another part lies in this one."""
        return self.superpod in ("", other.superpod) and self.rack in ("", other.rack)

    def outer(self) -> Scope:
        """One step back towards the whole site."""
        return Scope(self.superpod) if self.rack else Scope()

    def words(self) -> str:
        """`super-pod s1, rack r2`, or `site`."""
        parts = [("super-pod ", self.superpod), ("rack ", self.rack)]
        return ", ".join(title + name for title, name in parts if name) or "site"


@dataclass(frozen=True, slots=True)
class Rack:
    """Nodes of one rack. What is drawn from racks costs a hundredth of what is drawn from nodes."""

    scope: Scope
    nodes: tuple[NodeRow, ...]
    condition: Condition


def racks_of(nodes: Sequence[NodeRow]) -> tuple[Rack, ...]:
    """All racks, in the order of `nodes_of`."""
    found = []
    for (superpod, rack), members in groupby(nodes, key=lambda node: (node.superpod, node.rack)):
        held = tuple(members)
        found.append(Rack(Scope(superpod, rack), held, min(node.condition for node in held)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Cell:
    """One sign on the map: a node, or a rack or super-pod shown by its worst node."""

    level: Level
    name: str
    scope: Scope
    nodes: tuple[NodeRow, ...]
    condition: Condition

    @property
    def key(self) -> tuple[Level, str, Scope]:
        """What keeps the cursor on the same thing when the site changes."""
        return self.level, self.name, self.scope

    def words(self) -> str:
        """What the cell holds, for the line below the map."""
        counts = summary(node.condition for node in self.nodes)
        bad = [node.name for node in self.nodes if node.condition in TROUBLE]
        names = f" ({', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''})" if bad else ""
        return f"{self.scope.words()}: {len(self.nodes):,} nodes: {counts}{names}"


@dataclass(frozen=True, slots=True)
class Group:
    """`size` cells under one title, made when they are drawn; `note` stands behind them."""

    title: str
    size: int
    cells: Callable[[], tuple[Cell, ...]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Spot:
    """A place on the map: text, or the sign of a cell."""

    x: int
    text: str
    cell: Cell | None = None


@dataclass(frozen=True, slots=True)
class SiteMap:
    """The map of a part of the site: its lines, and its cells with their places."""

    level: Level
    scope: Scope
    lines: tuple[tuple[Spot, ...], ...]

    def cells(self) -> list[tuple[int, Spot]]:
        """Every cell with its line, in reading order."""
        return [(y, spot) for y, line in enumerate(self.lines) for spot in line if spot.cell is not None]


def draw_up(racks: Sequence[Rack], scope: Scope, width: int, height: int) -> SiteMap:
    """The finest map that fits; the coarsest that says anything when none does (it is then scrolled).

    `width` and `height` in characters.
    """
    inside = [rack for rack in racks if scope.holds(rack.scope)]
    if not inside:
        return SiteMap(Level.NODE, scope, ())
    levels = _levels(inside, scope)
    plans = ((level, _plan(_GROUPS[level](inside), max(1, width))) for level in levels)
    level, plan = next(((level, plan) for level, plan in plans if plan.height <= height or level is levels[-1]))
    return SiteMap(level, scope, tuple(plan.lines()))


def _levels(racks: Sequence[Rack], scope: Scope) -> list[Level]:
    """Levels worth showing, finest first: one cell for everything says nothing."""
    levels = [Level.NODE]
    if len(racks) > 1:
        levels.append(Level.RACK)
    if not scope.superpod and len({rack.scope.superpod for rack in racks}) > 1:
        levels.append(Level.SUPERPOD)
    return levels


def _by_rack(racks: Sequence[Rack]) -> list[Group]:
    return [Group(rack.scope.rack, len(rack.nodes), partial(_nodes, rack)) for rack in racks]


def _nodes(rack: Rack) -> tuple[Cell, ...]:
    return tuple(Cell(Level.NODE, node.name, rack.scope, (node,), node.condition) for node in rack.nodes)


def _by_superpod(racks: Sequence[Rack]) -> list[Group]:
    return [Group(name, len(members), partial(_racks, members)) for name, members in _superpods_of(racks)]


def _racks(racks: Sequence[Rack]) -> tuple[Cell, ...]:
    return tuple(Cell(Level.RACK, rack.scope.rack, rack.scope, rack.nodes, rack.condition) for rack in racks)


def _superpods(racks: Sequence[Rack]) -> list[Group]:
    found = []
    for name, members in _superpods_of(racks):
        nodes = tuple(node for rack in members for node in rack.nodes)
        cell = Cell(Level.SUPERPOD, name, Scope(name), nodes, min(rack.condition for rack in members))
        note = f"{len(nodes):,} nodes: {summary(node.condition for node in nodes)}"
        found.append(Group(name, 1, partial(tuple, (cell,)), note))
    return found


def _superpods_of(racks: Sequence[Rack]) -> list[tuple[str, list[Rack]]]:
    return [(name, list(members)) for name, members in groupby(racks, key=lambda rack: rack.scope.superpod)]


_GROUPS: dict[Level, Callable[[Sequence[Rack]], list[Group]]] = {
    Level.NODE: _by_rack,
    Level.RACK: _by_superpod,
    Level.SUPERPOD: _superpods,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """Where groups will stand: `abreast` of them on a line, or one below the other with their cells wrapped."""

    groups: Sequence[Group]
    title: int
    block: int
    abreast: int
    wrap: int

    @property
    def height(self) -> int:
        """Lines that it takes."""
        if self.abreast > 1:
            return -(-len(self.groups) // self.abreast)
        return sum(max(1, -(-group.size // self.wrap)) for group in self.groups)

    def lines(self) -> Iterator[tuple[Spot, ...]]:
        """The lines."""
        for start in range(0, len(self.groups), self.abreast):
            line: list[Spot] = []
            rest: tuple[Cell, ...] = ()
            for column, group in enumerate(self.groups[start : start + self.abreast]):
                x = column * (self.block + GAP)
                after = x + self.title + 1
                made = group.cells()
                cells, rest = made[: self.wrap], made[self.wrap :]
                line.append(Spot(x, _shortened(group.title, self.title)))
                line += _row(cells, after)
                if group.note:
                    line.append(Spot(after + len(cells) + 1, group.note))
            yield tuple(line)
            for at in range(0, len(rest), self.wrap):
                yield tuple(_row(rest[at : at + self.wrap], self.title + 1))


def _plan(groups: Sequence[Group], width: int) -> Plan:
    title = min(MAX_TITLE, max(len(group.title) for group in groups))
    longest = max(group.size + (len(group.note) + 1 if group.note else 0) for group in groups)
    block = min(width, title + 1 + longest)
    return Plan(
        groups,
        title=title,
        block=block,
        abreast=max(1, (width + GAP) // (block + GAP)),
        wrap=max(1, width - title - 1),
    )


def _row(cells: Sequence[Cell], x: int) -> list[Spot]:
    return [Spot(x + offset, "", cell) for offset, cell in enumerate(cells)]


def _shortened(title: str, width: int) -> str:
    """The end of a name tells racks apart, so the beginning is left out."""
    return title if len(title) <= width else "…" + title[1 - width :]


def moved(found: SiteMap, key: tuple[Level, str, Scope] | None, dx: int, dy: int) -> Cell | None:
    """The cell that the cursor reaches from the cell `key`: `dx` cells along, then `dy` lines away and nearest."""
    cells = found.cells()
    if not cells:
        return None
    at = next((i for i, (_, spot) in enumerate(cells) if spot.cell and spot.cell.key == key), 0)
    at = min(len(cells) - 1, max(0, at + dx))
    y, spot = cells[at]
    if dy:
        lines = sorted({line for line, _ in cells})
        target = lines[min(len(lines) - 1, max(0, lines.index(y) + dy))]
        spot = min((other for line, other in cells if line == target), key=lambda other: abs(other.x - spot.x))
    return spot.cell


def next_trouble(found: SiteMap, key: tuple[Level, str, Scope] | None) -> Cell | None:
    """The next cell after `key`, in reading order and round again, that somebody should look at."""
    cells = [spot.cell for _, spot in found.cells() if spot.cell]
    at = next((i for i, cell in enumerate(cells) if cell.key == key), -1)
    return next((cell for cell in cells[at + 1 :] + cells[: at + 1] if cell.condition in TROUBLE), None)
