"""Two manifests, field by field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

ABSENT = object()


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs: what runs, and what the manifest wants. `ABSENT` where it is not there."""

    path: str
    runs: object
    wants: object

    def line(self) -> str:
        """`spec.ranks: 4 -> 8`."""
        return f"{self.path}: {_shown(self.runs)} -> {_shown(self.wants)}"


def compare(runs: Mapping[str, object], wants: Mapping[str, object]) -> tuple[Change, ...]:
    """Every field that differs, in the order of the manifest. Lists are compared whole: their order has a meaning."""
    return tuple(_changes(runs, wants, ""))


def _changes(runs: Mapping[str, object], wants: Mapping[str, object], path: str) -> Iterator[Change]:
    for name in dict.fromkeys((*wants, *runs)):
        left, right = runs.get(name, ABSENT), wants.get(name, ABSENT)
        full = f"{path}.{name}" if path else name
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            yield from _changes(left, right, full)
        elif left != right:
            yield Change(full, left, right)


def _shown(value: object) -> str:
    return "(absent)" if value is ABSENT else json.dumps(value, ensure_ascii=False)
