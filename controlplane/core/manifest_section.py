"""One mapping of a manifest: typed reads that note what is wrong, with the path that a user sees in the file."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence

from controlplane.core import durations
from controlplane.core.manifest_rules import json_problems, touches
from controlplane.core.spec import AUTO, Violation


class Section:
    """One mapping of the document: typed reads that note violations, and what was read, for unknown fields."""

    def __init__(self, value: object, path: str, violations: list[Violation]) -> None:
        self._path = path
        self._violations = violations
        self._known: list[str] = []
        self.usable = isinstance(value, dict)
        self.fields: dict[object, object] = value if isinstance(value, dict) else {}
        if not self.usable:
            self.note("", f"must be a mapping, not {kind_of(value)}", "write it as `key: value` lines, or remove it")

    def at(self, name: str) -> str:
        """The full path of a field of this section."""
        return ".".join(part for part in (self._path, name) if part)

    def note(self, name: str, reason: str, fix: str) -> None:
        """Records a violation at a field of this section."""
        self._violations.append(Violation(self.at(name), reason, fix))

    def take(self, name: str, *, required: bool = False) -> tuple[bool, object]:
        """Whether the field is there, and its value; marks it as known."""
        self._known.append(name)
        if name in self.fields:
            return True, self.fields[name]
        if required and self.usable:
            self.note(name, "is missing", f"add `{name}`")
        return False, None

    def constant(self, name: str, expected: str) -> None:
        """A field that must hold exactly this text."""
        present, value = self.take(name, required=True)
        if present and value != expected:
            self.note(name, f"must be `{expected}`, not {kind_of(value)}", f"write `{name}: {expected}`")

    def section(self, name: str, *, required: bool = False) -> Section:
        """A nested mapping; an absent one reads as empty."""
        present, value = self.take(name, required=required)
        nested = Section(value if present else {}, self.at(name), self._violations)
        if required and not present:
            nested.usable = False  # its own required fields would only repeat the message
        return nested

    def text(self, name: str, default: str = "", *, required: bool = False) -> str:
        """A text field."""
        present, value = self.take(name, required=required)
        if not present:
            return default
        if not isinstance(value, str):
            self.note(name, f"must be text, not {kind_of(value)}", "put the value in quotes")
            return default
        return value

    def integer(self, name: str, default: int, *, required: bool = False) -> int:
        """A whole number (true and false are not numbers)."""
        present, value = self.take(name, required=required)
        if not present:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            self.note(
                name, f"must be a whole number, not {kind_of(value)}", f"write for example `{name}: {max(default, 1)}`"
            )
            return default
        return value

    def integer_or_auto(self, name: str, default: int) -> int:
        """A whole number, or `auto`."""
        if self.fields.get(name) == "auto":
            self.take(name)
            return AUTO
        value = self.integer(name, default)
        if value == AUTO and name in self.fields and not touches(self.at(name), self.broken()):
            self.note(name, f"{value} is too small", "use 0 or more, or `auto`")
        return value

    def number(self, name: str, default: float) -> float:
        """A number, whole or not."""
        present, value = self.take(name)
        if not present:
            return default
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            self.note(name, f"must be a number, not {kind_of(value)}", f"write for example `{name}: {default}`")
            return default
        return float(value)

    def duration(self, name: str, default_ms: int) -> int:
        """A duration with a unit, in milliseconds."""
        present, value = self.take(name)
        if not present:
            return default_ms
        if not isinstance(value, str):
            self.note(name, f"must be a duration with a unit, not {kind_of(value)}", durations.FIX)
            return default_ms
        parsed = durations.parse_duration(value)
        if parsed is None:
            self.note(name, f"{shown(value)} is not a duration", durations.FIX)
            return default_ms
        return parsed

    def labels(self, name: str) -> tuple[tuple[str, str], ...]:
        """A flat mapping of text to text, sorted."""
        nested = self.section(name)
        for key, value in nested.fields.items():
            if not isinstance(key, str) or not isinstance(value, str):
                nested.note(str(key), "label names and values must be text", "put both in quotes")
        return tuple(sorted((k, v) for k, v in nested.fields.items() if isinstance(k, str) and isinstance(v, str)))

    def json_object(self, name: str) -> str:
        """A mapping of JSON values, as canonical JSON."""
        nested = self.section(name)
        problems = list(json_problems(nested.fields, nested.at("")))
        self._violations += problems
        return "{}" if problems else json.dumps(nested.fields, sort_keys=True)

    def items(self, name: str, most: int) -> list[Section]:
        """A list of mappings, each as a section of its own; an absent list reads as empty."""
        present, value = self.take(name)
        if not present:
            return []
        if not isinstance(value, list):
            self.note(name, f"must be a list, not {kind_of(value)}", "begin each entry with `- `")
            return []
        if len(value) > most:
            self.note(name, f"has {len(value)} entries", f"use at most {most}")
            return []
        return [Section(item, f"{self.at(name)}[{index}]", self._violations) for index, item in enumerate(value)]

    def values(self, name: str, most: int) -> list[object]:
        """One value, or a list of values; an absent field reads as none."""
        present, value = self.take(name)
        if not present:
            return []
        found = value if isinstance(value, list) else [value]
        if not 0 < len(found) <= most:
            self.note(name, f"has {len(found)} values", f"give 1 to {most}, or leave it out")
            return []
        return found

    def words(self, name: str, most: int) -> tuple[str, ...]:
        """One text, or a list of texts."""
        found = self.values(name, most)
        for value in found:
            if not isinstance(value, str):
                self.note(name, f"must be text, not {kind_of(value)}", "put the value in quotes")
                return ()
        return tuple(map(str, found))

    def numbers(self, name: str, named: Mapping[str, int], most: int) -> tuple[int, ...]:
        """One number, or a list; `named`: words that stand for numbers."""
        numbers = []
        for value in self.values(name, most):
            if isinstance(value, str) and value in named:
                numbers.append(named[value])
            elif isinstance(value, int) and not isinstance(value, bool):
                numbers.append(value)
            else:
                near = nearest(str(value), list(named))
                fix = f"did you mean `{near}`?" if near else f"write whole numbers, or {', '.join(list(named)[:4])}"
                self.note(name, f"{kind_of(value)} is no number here", fix)
                return ()
        return tuple(numbers)

    def flag(self, name: str) -> bool:
        """True or false; absent is false."""
        present, value = self.take(name)
        if present and not isinstance(value, bool):
            self.note(name, f"must be true or false, not {kind_of(value)}", f"write `{name}: true`")
        return value is True

    def choice(self, name: str, choices: Sequence[str], *, required: bool = False) -> str:
        """One of some words; "" when it is absent or none of them."""
        value = self.text(name, required=required)
        if not isinstance(self.fields.get(name), str):
            return ""
        return value if self.known(name, value, choices) else ""

    def known(self, name: str, value: str, choices: Sequence[str]) -> bool:
        """Whether a word of a field is one of some; notes the nearest one when it is not."""
        if value in choices:
            return True
        near = nearest(value, list(choices))
        fix = f"did you mean `{near}`?" if near else f"use one of {', '.join(choices)}"
        self.note(name, f"{shown(value)} is not known", fix)
        return False

    def broken(self) -> set[str]:
        """Paths that have a violation so far."""
        return {violation.path for violation in self._violations}

    def finish(self) -> None:
        """Notes every field that nobody asked for, with the nearest known name."""
        for key in self.fields:
            if key in self._known:
                continue
            near = nearest(str(key), self._known)
            fix = f"did you mean `{near}`?" if near else f"remove it; known here: {', '.join(self._known)}"
            self.note(str(key), "unknown field", fix)


def kind_of(value: object) -> str:
    """What a value is, for a message."""
    match value:
        case None:
            return "empty"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {shown(value)}"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return f"a {type(value).__name__}"


def shown(value: str) -> str:
    """A text in quotes, cut."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + '..."'


def nearest(name: str, known: list[str]) -> str | None:
    """The known field that a user most likely meant: `every_steps` and `everystep` both mean `everySteps`."""
    folded = {re.sub(r"[^a-z0-9]", "", candidate.lower()): candidate for candidate in known}
    found = difflib.get_close_matches(re.sub(r"[^a-z0-9]", "", name.lower()), list(folded), n=1, cutoff=0.6)
    return folded[found[0]] if found else None
