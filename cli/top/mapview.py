"""The map on the screen: signs of nodes with a cursor on one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from cli.tables import clean
from cli.top.conditions import LOOKS
from cli.top.sitemap import Cell, Level, Rack, Scope, SiteMap, draw_up, moved, next_trouble

TITLE = Style(dim=True)
STYLES = {condition: Style.parse(look.style) for condition, look in LOOKS.items()}
FIXED = 5
"""Lines of the screen that are neither map nor table."""
CURSOR = Style(reverse=True, bold=True)


class MapView(ScrollView, can_focus=True):
    """Shows the nodes of a scope; arrows move the cursor, Enter goes in, Escape comes out again."""

    BINDINGS = [
        Binding("left", "move(-1, 0)", show=False),
        Binding("right", "move(1, 0)", show=False),
        Binding("up", "move(0, -1)", show=False),
        Binding("down", "move(0, 1)", show=False),
        Binding("enter", "open", "open"),
        Binding("escape", "leave", "back"),
        Binding("x", "trouble", "next trouble"),
    ]

    @dataclass
    class Pointed(Message):
        """The cursor stands on a cell, or on none when the map is empty."""

        cell: Cell | None

    @dataclass
    class NodeChosen(Message):
        """Enter was pressed on a node."""

        name: str

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._racks: Sequence[Rack] = ()
        self._map = SiteMap(Level.NODE, Scope(), ())
        self._scope = Scope()
        self._cursor: Cell | None = None

    def show(self, racks: Sequence[Rack]) -> None:
        """The site has changed."""
        self._racks = racks
        self._lay_out()

    def on_resize(self, event: events.Resize) -> None:
        """There is more or less room."""
        self._lay_out()

    def _lay_out(self) -> None:
        if self._scope != Scope() and not any(self._scope.holds(rack.scope) for rack in self._racks):
            self._scope = Scope()
        # A column is kept free for the scroll bar, so that its coming and going does not move the map.
        width, height = self.size.width - 1, self._room()
        self._map = draw_up(self._racks, self._scope, width, height)
        self.virtual_size = Size(max(1, width), max(1, len(self._map.lines)))
        grain = {Level.NODE: "node", Level.RACK: "rack", Level.SUPERPOD: "super-pod"}[self._map.level]
        self.border_title = clean(f"{self._scope.words()}, one sign per {grain}")
        self._point(moved(self._map, self._cursor.key if self._cursor else None, 0, 0))
        self.refresh()

    def _room(self) -> int:
        """Lines that the map may take inside its border: what two tables of a fifth of the screen each leave."""
        height = self.app.size.height
        return max(2, height - FIXED - 2 * max(5, height // 5) - 2)

    def _point(self, cell: Cell | None) -> None:
        self._cursor = cell
        self.post_message(self.Pointed(cell))
        for y, spot in self._map.cells():
            if cell is not None and spot.cell is cell:
                self.scroll_to_region(Region(spot.x, y, 1, 1), animate=False)
        self.refresh()

    def action_move(self, dx: int, dy: int) -> None:
        """The cursor goes along the cells or across the lines."""
        self._point(moved(self._map, self._cursor.key if self._cursor else None, dx, dy))

    def action_trouble(self) -> None:
        """The cursor goes to the next cell that somebody should look at."""
        found = next_trouble(self._map, self._cursor.key if self._cursor else None)
        if found is None:
            self.notify("no node here is in trouble")
        else:
            self._point(found)

    def action_open(self) -> None:
        """Into the super-pod or rack, or to the node."""
        cell = self._cursor
        if cell is None:
            return
        if cell.level is Level.NODE:
            self.post_message(self.NodeChosen(cell.name))
            return
        self._scope = cell.scope
        self._cursor = None
        self._lay_out()

    def action_leave(self) -> None:
        """Out of the rack or super-pod."""
        self._scope = self._scope.outer()
        self._lay_out()

    def render_line(self, y: int) -> Strip:
        """One line of the map as it is scrolled."""
        _, top = self.scroll_offset
        number = top + y
        segments: list[Segment] = []
        at = 0
        for spot in self._map.lines[number] if number < len(self._map.lines) else ():
            segments.append(Segment(" " * (spot.x - at)))
            if spot.cell is None:
                text, style = clean(spot.text), TITLE
            else:
                text, style = LOOKS[spot.cell.condition].sign, STYLES[spot.cell.condition]
                if self.has_focus and self._cursor is not None and spot.cell.key == self._cursor.key:
                    style += CURSOR
            segments.append(Segment(text, style))
            at = spot.x + len(text)
        return Strip(segments).crop_extend(0, self.size.width, self.rich_style)
