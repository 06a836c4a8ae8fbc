"""Text of vendor tools that is nested by indentation: `Key : value` lines under headings. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_PAIR = re.compile(r"(?P<key>[^:]+?)\s*:(?:\s+(?P<value>.*))?")
_MAX_DEPTH = 32


@dataclass(slots=True)
class Outline:
    """A heading with what stands below it. Of a key that is there twice, the last counts."""

    values: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Outline] = field(default_factory=dict)

    def part(self, *path: str) -> Outline | None:
        """What stands below the headings of a path; None when one is not there."""
        found: Outline | None = self
        for name in path:
            found = None if found is None else found.parts.get(name)
        return found

    def get(self, *path: str) -> str | None:
        """The value at a path of headings and a key; None when it is not there."""
        below = self.part(*path[:-1])
        return None if below is None else below.values.get(path[-1])


def outline(text: str) -> Outline:
    """The whole text as one outline. A line without a value is a heading; lines below one with a value belong to its heading."""
    top = Outline()
    stack: list[tuple[int, Outline]] = [(-1, top)]
    for line in text.splitlines():
        word = line.strip()
        if not word:
            continue
        indent = len(line) - len(line.lstrip())
        while len(stack) > 1 and stack[-1][0] >= indent:
            stack.pop()
        pair = _PAIR.fullmatch(word)
        if pair and pair["value"]:
            stack[-1][1].values[pair["key"]] = pair["value"].strip()
            continue
        name = pair["key"] if pair else word
        if len(stack) < _MAX_DEPTH:
            below = stack[-1][1].parts.setdefault(name, Outline())
            stack.append((indent, below))
    return top


def headed(top: Outline, pattern: re.Pattern[str]) -> Iterator[tuple[re.Match[str], Outline]]:
    """The parts of an outline whose heading fits a pattern, in their order."""
    for name, part in top.parts.items():
        if found := pattern.fullmatch(name):
            yield found, part
