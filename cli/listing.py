"""A list of things as columns: selected, then printed in the form that was asked for."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cli import render
from cli.errors import CliError, Exit
from cli.options import Output
from cli.selectors import parse_fields, parse_labels, rows_by_field, rows_by_label

if TYPE_CHECKING:
    from google.protobuf.message import Message

Columns = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which of a list are wanted, and in which order; empty parts select everything. `sort`: a field or column, with `-` before
    it the other way round."""

    names: tuple[str, ...] = ()
    labels: str = ""
    fields: str = ""
    sort: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """Things of one kind. Every column has one cell per thing.

    `table` is shown always, `wide` with -o wide, `fields` can be selected by. `labels` is None where the kind has none.
    `messages` are the full things for JSON and YAML, in the same order; empty when another form was asked for. `by_name`:
    shown in the order of the names, not as they came. `numbers`: what cells stand for, by field, for `--sort`; NaN: nothing.
    """

    kind: str
    names: Sequence[str]
    table: Columns
    wide: Columns = field(default_factory=dict)
    fields: Columns = field(default_factory=dict)
    labels: Sequence[Mapping[str, str]] | None = None
    messages: Sequence[Message] = ()
    by_name: bool = False
    numbers: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def select(self, selection: Selection) -> list[int]:
        """Rows that are wanted: in the order that is asked for, else in that of the names where there are any.

        Raises:
            CliError: not found, when a name is not in the list; usage, when a selector is none.
        """
        rows = self._named(selection.names) if selection.names else self._ordered()
        wanted = parse_labels(selection.labels)
        if wanted and self.labels is None:
            raise CliError(f"{self.kind} have no labels", fix="select by --field, or by name", code=Exit.USAGE)
        if wanted and self.labels is not None:
            met = set(rows_by_label(self.labels, wanted))
            rows = [row for row in rows if row in met]
        rows = rows_by_field(self.fields, parse_fields(selection.fields, self.fields), rows)
        return self._sorted(rows, selection.sort) if selection.sort else rows

    def _sorted(self, rows: list[int], word: str) -> list[int]:
        """Ordered by a field or column; equals stay in their order, and what has no number is last either way."""
        name, backwards = word.removeprefix("-"), word.startswith("-")
        columns = {key.lower().replace(" ", "_"): cells for key, cells in {**self.table, **self.wide}.items()}
        texts = {**columns, **self.fields}
        key = name.lower().replace(" ", "_")
        if key in self.numbers:
            numbers = self.numbers[key]
            known = [row for row in rows if not math.isnan(numbers[row])]
            missing = [row for row in rows if math.isnan(numbers[row])]
            return sorted(known, key=lambda row: numbers[row], reverse=backwards) + missing
        if key in texts:
            cells = texts[key]
            return sorted(rows, key=lambda row: natural(cells[row]), reverse=backwards)
        near = difflib.get_close_matches(key, [*texts, *self.numbers], n=1)
        fix = f"did you mean `{near[0]}`?" if near else f"sort by {', '.join(sorted({*texts, *self.numbers}))}"
        raise CliError(f"there is no field `{name}` to sort by", fix=fix, code=Exit.USAGE)

    def _ordered(self) -> list[int]:
        rows = list(range(len(self.names)))
        return sorted(rows, key=lambda row: natural(self.names[row])) if self.by_name else rows

    def _named(self, names: Sequence[str]) -> list[int]:
        rows: dict[str, int] = {}
        for row, name in enumerate(self.names):
            rows.setdefault(name, row)
        missing = [name for name in names if name not in rows]
        if missing:
            raise not_found(self.kind, missing, self.names)
        return list(dict.fromkeys(rows[name] for name in names))


_DIGITS = re.compile("([0-9]+)")


def natural(name: str) -> list[str | int]:
    """A key that puts node-2 before node-10."""
    parts: list[str | int] = list(_DIGITS.split(name))
    parts[1::2] = map(int, parts[1::2])
    return parts


def not_found(kind: str, missing: Sequence[str], known: Sequence[str]) -> CliError:
    """None of that name, with the nearest one that there is."""
    near = difflib.get_close_matches(missing[0], known[:10_000], n=1)
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    fix = f"did you mean `{near[0]}`?" if near else f"`phalanx get {kind}` lists what there is"
    return CliError(f"there are no {kind} {', '.join(missing[:3])}{more}", fix=fix, code=Exit.NOT_FOUND)


def show(listing: Listing, rows: Sequence[int], output: Output) -> None:
    """Prints the rows. An empty table says so on standard error, an empty document is an empty list."""
    if output in (Output.JSON, Output.YAML):
        from cli.wire import plain  # noqa: PLC0415 - only these forms need it

        render.document([plain(listing.messages[row]) for row in rows], output.value)
    elif output is Output.NAME:
        render.lines(listing.names[row] for row in rows)
    elif not rows:
        render.note(f"no {listing.kind}" + (" match" if listing.names else " yet"))
    else:
        columns = {**listing.table, **listing.wide} if output is Output.WIDE else listing.table
        everything = list(rows) == list(range(len(listing.names)))
        cells = [column if everything else [column[row] for row in rows] for column in columns.values()]
        render.columns(tuple(columns), cells)
