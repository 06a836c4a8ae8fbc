"""One field of a manifest, as it is described to people and editors."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Field:
    """One field: `kind` is text, integer, number, flag, duration, labels, arguments, count (or `unlimited`), automatic (a
    whole number or `auto`), words or numbers
    (one or a list; numbers may be `words` too), section, or sections (a list of them)."""

    name: str
    kind: str
    meaning: str
    default: str | float | None = None
    required: bool = False
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float = 1000
    pattern: str = ""
    example: str = ""
    fields: tuple[Field, ...] = ()

    @property
    def default_text(self) -> str:
        """The default as it is written, or that there is none."""
        if self.required:
            return "(required)"
        return "" if self.default is None else json.dumps(self.default) if self.default == "" else str(self.default)
