"""Selectors of lists: labels (`rack=r1,pool!=x,zone in (a,b),!spare`) and fields (`state=RUNNING`), as kubectl writes them.

Every requirement must hold. A label that is not there matches `!=`, `notin` and `!key`, and nothing else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cli.errors import CliError, Exit

MAX_TEXT = 10_000
MAX_REQUIREMENTS = 100

_KEY = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?"
_VALUE = r"[^\s,()=!]*"
_SET = re.compile(rf"({_KEY})\s+(in|notin)\s*\(([^()]*)\)")
_EQUAL = re.compile(rf"({_KEY})\s*(==|=|!=)\s*({_VALUE})")
_PRESENT = re.compile(rf"(!?)\s*({_KEY})")

LABEL_FORMS = "write rack=r1, rack!=r1, rack in (r1,r2), rack notin (r1), rack or !rack, joined by commas"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One part of a selector. `values` empty: only the presence of the key counts."""

    key: str
    values: frozenset[str] = frozenset()
    negated: bool = False

    def holds(self, value: str | None) -> bool:
        """Whether a value (None: there is none) meets it."""
        met = value is not None and (not self.values or value in self.values)
        return met != self.negated


def parse_labels(text: str) -> tuple[Requirement, ...]:
    """The requirements of a label selector; a `CliError` (usage) names the part that is none."""
    return tuple(_label(part) for part in _parts(text, "label selector", LABEL_FORMS))


def parse_fields(text: str, known: Iterable[str]) -> tuple[Requirement, ...]:
    """The requirements of a field selector over these fields; values compare without regard to case."""
    names = sorted(known)
    form = f"write FIELD=VALUE or FIELD!=VALUE, joined by commas; fields: {', '.join(names)}"
    found = []
    for part in _parts(text, "field selector", form):
        match = _EQUAL.fullmatch(part)
        if match is None:
            raise CliError(f"`{part}` is no part of a field selector", fix=form, code=Exit.USAGE)
        if match[1] not in names:
            near = difflib.get_close_matches(match[1], names, n=1)
            fix = f"did you mean `{near[0]}`?" if near else f"fields: {', '.join(names)}"
            raise CliError(f"there is no field `{match[1]}`", fix=fix, code=Exit.USAGE)
        found.append(Requirement(match[1], frozenset((match[3].casefold(),)), match[2] == "!="))
    return tuple(found)


def _parts(text: str, what: str, form: str) -> list[str]:
    """The parts between commas that stand outside of parentheses."""
    parts = re.split(r",(?![^()]*\))", text[:MAX_TEXT]) if text.strip() else []
    if len(text) > MAX_TEXT or len(parts) > MAX_REQUIREMENTS:
        raise CliError(f"the {what} is too long", fix=f"at most {MAX_REQUIREMENTS} parts", code=Exit.USAGE)
    stripped = [part.strip() for part in parts]
    if not all(stripped):
        raise CliError(f"the {what} has an empty part", fix=form, code=Exit.USAGE)
    return stripped


def _label(part: str) -> Requirement:
    if match := _SET.fullmatch(part):
        values = frozenset(value.strip() for value in match[3].split(","))
        return Requirement(match[1], values, match[2] == "notin")
    if match := _EQUAL.fullmatch(part):
        return Requirement(match[1], frozenset((match[3],)), match[2] == "!=")
    if match := _PRESENT.fullmatch(part):
        return Requirement(match[2], negated=bool(match[1]))
    raise CliError(f"`{part}` is no part of a label selector", fix=LABEL_FORMS, code=Exit.USAGE)


def rows_by_label(labels: Sequence[Mapping[str, str]], wanted: Sequence[Requirement]) -> list[int]:
    """Rows whose labels meet every requirement."""
    return [row for row, item in enumerate(labels) if all(one.holds(item.get(one.key)) for one in wanted)]


def rows_by_field(
    columns: Mapping[str, Sequence[str]], wanted: Sequence[Requirement], rows: Iterable[int]
) -> list[int]:
    """Those of the rows whose fields meet every requirement."""
    return [row for row in rows if all(one.holds(columns[one.key][row].casefold()) for one in wanted)]
