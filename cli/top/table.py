"""Tables that change under the reader's cursor: it stays on the row that it was on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.text import Text
from textual.binding import Binding
from textual.widgets import DataTable

from cli.tables import STYLES

COLOURS = {"31": "red", "32": "green", "33": "yellow"}
"""Names of the colours in `STYLES`."""


class Table(DataTable[Text]):
    """Rows by key. With `tail` a cursor on the last row stays on the last row when rows are added.

    Columns have widths of our own: those that the widget finds come a moment after the rows, and what was drawn in
    between stays on the screen.
    """

    BINDINGS = [Binding("enter", "select_cursor", "open")]

    def __init__(self, columns: Sequence[str] = (), *, tail: bool = False, id: str) -> None:
        super().__init__(id=id, cursor_type="row", show_header=not tail)
        self._tail = tail
        self._name_columns({column: cell_len(column) for column in columns})

    def _name_columns(self, widths: Mapping[str, int]) -> None:
        self._widths = dict(widths)
        for column, width in widths.items():
            self.add_column(column, key=column, width=width)

    def fill(self, rows: Mapping[str, Sequence[str]], columns: Sequence[str] | None = None) -> None:
        """Shows `rows` (by key, in order), under other columns if given. Only what changed is drawn anew."""
        names = list(self._widths) if columns is None else list(columns)
        widths = {name: max(self._widths.get(name, 0), cell_len(name)) for name in names}
        for cells in rows.values():
            for name, cell in zip(names, cells, strict=True):
                widths[name] = max(widths[name], cell_len(cell))
        held = [row.key.value for row in self.ordered_rows]
        if widths == self._widths and held == list(rows):
            self._update(rows)
        else:
            self._replace(held, rows, widths)

    def _update(self, rows: Mapping[str, Sequence[str]]) -> None:
        for key, cells in rows.items():
            for column, cell in zip(self._widths, cells, strict=True):
                if self.get_cell(key, column).plain != cell:
                    self.update_cell(key, column, _styled(cell))

    def _replace(
        self, held: Sequence[str | None], rows: Mapping[str, Sequence[str]], widths: Mapping[str, int]
    ) -> None:
        at = self.cursor_row
        follows = self._tail and at >= len(held) - 1
        self.clear(columns=widths != self._widths)
        if widths != self._widths:
            self._name_columns(widths)
        for key, cells in rows.items():
            self.add_row(*(_styled(cell) for cell in cells), key=key)
        order = list(rows)
        if follows:
            at = len(order) - 1
        elif at < len(held) and held[at] in rows:
            at = order.index(str(held[at]))
        self.move_cursor(row=max(0, min(at, len(order) - 1)), animate=False)


def _styled(cell: str) -> Text:
    return Text(cell, style=COLOURS.get(STYLES.get(cell, ""), ""), no_wrap=True)
