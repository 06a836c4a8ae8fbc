"""What YAML makes of a manifest behind its author's back, and how much of it is read at all.

YAML 1.1 reads `no` as false, `010` as 8, `1:30` as 90 and `1e-4` as text; takes the last of two equal keys; and lets ten
lines stand for a billion values. Each is told with its place instead of being believed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from cli.errors import ManifestRefused
from controlplane.core.spec import Violation

MAX_DEPTH = 40
MAX_NODES = 50_000
MAX_ALIASES = 100
MAX_LINE_DEPTH = 4 * MAX_DEPTH
"""Brackets open at once in one line, also those in quotes. PyYAML looks ahead to the end of a line for a key, and for each
token it goes through all that are open."""

_BOOL, _INT, _STR = (f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "str"))
_BRACKET = re.compile(r"[\[\]{}]")
_EXPONENT = re.compile(r"[+-]?[0-9]+(?:\.[0-9]*)?[eE][+-]?[0-9]+")


def check_extent(name: str, text: str) -> None:
    """Refuses a document that is too deep, too long or repeats itself too often, before anything is made of it."""
    _check_brackets(name, text)
    depth = aliases = 0
    for nodes, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        for count, most, what in (
            (depth, MAX_DEPTH, "levels deep"),
            (nodes, MAX_NODES, "values long"),
            (aliases, MAX_ALIASES, "aliases (`*name`) long"),
        ):
            if count > most:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise ManifestRefused((f"{name}:{line}: the document is more than {most} {what}. is this a manifest?",))


def _check_brackets(name: str, text: str) -> None:
    """What the parser would look through for seconds before its first event."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.count("[") + line.count("{") <= MAX_LINE_DEPTH:
            continue
        deepest = max(accumulate(1 if bracket in "[{" else -1 for bracket in _BRACKET.findall(line)))
        if deepest > MAX_LINE_DEPTH:
            what = f"the line opens more than {MAX_LINE_DEPTH} brackets"
            raise ManifestRefused((f"{name}:{number}: {what}. is this a manifest?",))


def hint(problem: str) -> str:
    """What to do about a syntax error."""
    if "'\\t'" in problem:
        return "YAML is indented with spaces: replace the tab"
    if "found another document" in problem:
        return "submit one manifest at a time: split the file at `---`"
    if "mapping values are not allowed" in problem:
        return "put a text that contains `: ` in quotes"
    if "undefined alias" in problem:
        return "define it before with `&name`, or put a text that begins with `*` in quotes"
    return "correct the YAML"


def pitfalls(root: Node) -> tuple[Violation, ...]:
    """Every value that YAML reads as something else than it looks like, and every key that stands twice."""
    return tuple(_pitfalls(root, "", set()))


def _pitfalls(node: Node, path: str, seen: set[int]) -> Iterator[Violation]:
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, ScalarNode):
        if node.style is None and (misread := _misread(node)):
            yield Violation(path, *misread)
    elif isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            yield from _pitfalls(item, f"{path}[{index}]", seen)
    elif isinstance(node, MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, ScalarNode) else "?"
            full = f"{path}.{name}" if path else name
            line = key.start_mark.line + 1
            if name in first and name not in ("?", "<<"):
                yield Violation(full, f"stands here and again in line {line}", "keep one of them")
            first.setdefault(name, line)
            yield from _pitfalls(value, full, seen)


def _misread(node: ScalarNode) -> tuple[str, str] | None:
    """Reason and fix for an unquoted value that is not what it seems."""
    text = node.value
    quoted = f'"{text}"'
    if node.tag == _BOOL and text.lower() not in ("true", "false"):
        means = "true" if text.lower() in ("yes", "on") else "false"
        return f"YAML reads `{text}` as {means}", f"write {means}, or {quoted} for the text"
    if node.tag == _INT and ":" in text:
        return f"YAML reads `{text}` as a number in base 60", f"write {quoted} for the text"
    if node.tag == _INT and re.fullmatch(r"[+-]?0[0-9_]+", text):
        return f"YAML reads `{text}` as an octal number", f"write it without the leading 0, or {quoted} for the text"
    if node.tag == _STR and _EXPONENT.fullmatch(text):
        mantissa, exponent = re.split("[eE]", text)
        sign = "" if exponent[0] in "+-" else "+"
        number = f"{mantissa}{'' if '.' in mantissa else '.0'}e{sign}{exponent}"
        return f"YAML reads `{text}` as text, not as a number", f"write {number}, or {quoted} for the text"
    return None
