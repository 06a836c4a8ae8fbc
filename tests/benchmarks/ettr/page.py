"""Puts the tables of a campaign into pages of the documentation, between markers, so that no number is copied by hand."""

from __future__ import annotations

import re
from collections.abc import Iterable

from controlplane.sim.ettr.tables import Table

MARKED = re.compile(r"<!-- table (?P<key>[a-z0-9.-]+) -->\n(?P<old>.*?)<!-- /table -->", re.DOTALL)


def markdown(table: Table) -> str:
    """A table as Markdown: caption, rows, and its note below."""
    lines = [
        f"**{table.caption}**",
        "",
        _row(table.headers),
        _row(["---"] * len(table.headers)),
        *map(_row, table.rows),
    ]
    return "\n".join([*lines, "", *([table.note, ""] if table.note else [])])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def filled(text: str, tables: Iterable[Table]) -> str:
    """A page with the newest form of every table that it asks for.

    Tables that have not been made stay as they were; everything outside of `<!-- table KEY -->` ... `<!-- /table -->` does.
    """
    known = {table.key: table for table in tables}

    def put(found: re.Match[str]) -> str:
        table = known.get(found["key"])
        return found[0] if table is None else f"<!-- table {table.key} -->\n{markdown(table)}<!-- /table -->"

    return MARKED.sub(put, text)
