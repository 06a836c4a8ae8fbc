"""Tables that change under the reader's cursor: it stays on the row that it was on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text
from textual.binding import Binding
from textual.widgets import DataTable

from cli.render import STATE_STYLE


class Table(DataTable[Text]):
    """Rows by key. With `tail` a cursor on the last row stays on the last row when rows are added."""

    BINDINGS = [Binding("enter", "select_cursor", "open")]

    def __init__(self, columns: Sequence[str] = (), *, tail: bool = False, id: str) -> None:
        super().__init__(id=id, cursor_type="row", show_header=not tail)
        self._names: Sequence[str] = ()
        self._tail = tail
        self._name_columns(columns)

    def _name_columns(self, columns: Sequence[str]) -> None:
        self._names = columns
        for column in columns:
            self.add_column(column, key=column)

    def fill(self, rows: Mapping[str, Sequence[str]], columns: Sequence[str] | None = None) -> None:
        """Shows `rows` (by key, in order), under other columns if given. Only what changed is drawn anew."""
        if columns is not None and list(columns) != list(self._names):
            self.clear(columns=True)
            self._name_columns(columns)
        held = [row.key.value for row in self.ordered_rows]
        if held == list(rows):
            self._update(rows)
        else:
            self._replace(held, rows)

    def _update(self, rows: Mapping[str, Sequence[str]]) -> None:
        for key, cells in rows.items():
            for column, cell in zip(self._names, cells, strict=True):
                if self.get_cell(key, column).plain != cell:
                    self.update_cell(key, column, _styled(cell), update_width=True)

    def _replace(self, held: Sequence[str | None], rows: Mapping[str, Sequence[str]]) -> None:
        at = self.cursor_row
        follows = self._tail and at >= len(held) - 1
        self.clear()
        for key, cells in rows.items():
            self.add_row(*(_styled(cell) for cell in cells), key=key)
        order = list(rows)
        if follows:
            at = len(order) - 1
        elif at < len(held) and held[at] in rows:
            at = order.index(str(held[at]))
        self.move_cursor(row=min(at, len(order) - 1), animate=False)


def _styled(cell: str) -> Text:
    return Text(cell, style=STATE_STYLE.get(cell, ""), no_wrap=True)
