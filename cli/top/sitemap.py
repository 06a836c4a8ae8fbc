"""Where each node stands on the map: groups of cells, as fine as the space allows. No drawing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
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

    def holds(self, node: NodeRow) -> bool:
        """Whether a node lies in this part."""
        return self.superpod in ("", node.superpod) and self.rack in ("", node.rack)

    def outer(self) -> Scope:
        """One step back towards the whole site."""
        return Scope(self.superpod) if self.rack else Scope()

    def words(self) -> str:
        """`super-pod s1, rack r2`, or `site`."""
        parts = [("super-pod ", self.superpod), ("rack ", self.rack)]
        return ", ".join(title + name for title, name in parts if name) or "site"


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
    """Cells under one title; `note` stands behind them."""

    title: str
    cells: tuple[Cell, ...]
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


def draw_up(nodes: Sequence[NodeRow], scope: Scope, width: int, height: int) -> SiteMap:
    """The finest map that fits; the coarsest that says anything when none does (it is then scrolled).

    `nodes` come in the order of `nodes_of`; `width` and `height` in characters.
    """
    inside = [node for node in nodes if scope.holds(node)]
    lines: list[tuple[Spot, ...]] = []
    level = Level.NODE
    for level in _levels(inside, scope):
        lines = _flow(_GROUPS[level](inside), max(1, width))
        if len(lines) <= height:
            break
    return SiteMap(level, scope, tuple(lines))


def _levels(nodes: Sequence[NodeRow], scope: Scope) -> list[Level]:
    """Levels worth showing, finest first: one cell for everything says nothing."""
    levels = [Level.NODE]
    if len({(node.superpod, node.rack) for node in nodes}) > 1:
        levels.append(Level.RACK)
    if not scope.superpod and len({node.superpod for node in nodes}) > 1:
        levels.append(Level.SUPERPOD)
    return levels


def _superpod(node: NodeRow) -> Scope:
    return Scope(node.superpod)


def _rack(node: NodeRow) -> Scope:
    return Scope(node.superpod, node.rack)


def _cells(nodes: Sequence[NodeRow], level: Level, part: Callable[[NodeRow], Scope]) -> tuple[Cell, ...]:
    found = []
    for scope, members in groupby(nodes, key=part):
        held = tuple(members)
        name = scope.rack or scope.superpod
        found.append(Cell(level, name, scope, held, min(node.condition for node in held)))
    return tuple(found)


def _by_rack(nodes: Sequence[NodeRow]) -> list[Group]:
    groups = []
    for scope, members in groupby(nodes, key=_rack):
        cells = tuple(Cell(Level.NODE, node.name, scope, (node,), node.condition) for node in members)
        groups.append(Group(scope.rack, cells))
    return groups


def _by_superpod(nodes: Sequence[NodeRow]) -> list[Group]:
    return [
        Group(scope.superpod, _cells(list(members), Level.RACK, _rack))
        for scope, members in groupby(nodes, key=_superpod)
    ]


def _superpods(nodes: Sequence[NodeRow]) -> list[Group]:
    return [
        Group(cell.name, (cell,), f"{len(cell.nodes):,} nodes: {summary(node.condition for node in cell.nodes)}")
        for cell in _cells(nodes, Level.SUPERPOD, _superpod)
    ]


_GROUPS: dict[Level, Callable[[Sequence[NodeRow]], list[Group]]] = {
    Level.NODE: _by_rack,
    Level.RACK: _by_superpod,
    Level.SUPERPOD: _superpods,
}


def _flow(groups: Sequence[Group], width: int) -> list[tuple[Spot, ...]]:
    """Groups side by side where they fit, else below each other with their cells wrapped."""
    if not groups:
        return []
    title = min(MAX_TITLE, max(len(group.title) for group in groups))
    longest = max(len(group.cells) + (len(group.note) + 1 if group.note else 0) for group in groups)
    block = min(width, title + 1 + longest)
    abreast = max(1, (width + GAP) // (block + GAP))
    wrap = max(1, width - title - 1)
    lines: list[tuple[Spot, ...]] = []
    for start in range(0, len(groups), abreast):
        line: list[Spot] = []
        for column, group in enumerate(groups[start : start + abreast]):
            x = column * (block + GAP)
            line.append(Spot(x, _shortened(group.title, title)))
            line += _row(group.cells[:wrap], x + title + 1)
            if group.note:
                line.append(Spot(x + title + 1 + len(group.cells) + 1, group.note))
        lines.append(tuple(line))
        if abreast == 1:
            cells = groups[start].cells
            lines += [tuple(_row(cells[at : at + wrap], title + 1)) for at in range(wrap, len(cells), wrap)]
    return lines


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
