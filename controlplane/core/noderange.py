"""Names of many nodes in one word: `node-[1-4,7]`, `rack[01-16]n[1-8]`, `node-1,node-9`.

A number keeps the width of its first bound, as hosts are numbered: `node[0001-0064]`. Several brackets multiply. The
expansion is bounded before it is made.
"""

from __future__ import annotations

import itertools
import re

MAX_NAMES = 100_000
"""More than any site holds."""
MAX_TEXT = 10_000

_PART = re.compile(r"([0-9]{1,12})(?:-([0-9]{1,12}))?")


class NodeRangeError(ValueError):
    """A word that names no nodes: `str` says why, `fix` what to write."""

    def __init__(self, why: str, fix: str = "write for example node-[1-4,7] or node[0001-0064]") -> None:
        super().__init__(why)
        self.fix = fix


def expand(text: str) -> tuple[str, ...]:
    """The names in order, each once.

    Raises:
        NodeRangeError: brackets do not match, a bound is no number, a range runs backwards, or there are too many names.
    """
    if len(text) > MAX_TEXT:
        raise NodeRangeError(f"has {len(text)} characters", f"use at most {MAX_TEXT}")
    names: dict[str, None] = {}
    for word in _words(text):
        names.update(dict.fromkeys(_expand_word(word, MAX_NAMES - len(names))))
    return tuple(names)


def is_range(text: str) -> bool:
    """Whether a word can stand for more than one name."""
    return any(sign in text for sign in "[],")


def _words(text: str) -> list[str]:
    """The words between commas that stand outside of brackets."""
    words, depth, word = [], 0, ""
    for sign in text:
        depth += (sign == "[") - (sign == "]")
        if depth not in (0, 1):
            raise NodeRangeError(f"the brackets of `{text}` do not match")
        if sign == "," and depth == 0:
            words.append(word)
            word = ""
        else:
            word += sign
    if depth:
        raise NodeRangeError(f"a bracket of `{text}` is not closed")
    words.append(word)
    if not all(words):
        raise NodeRangeError(f"a name is missing in `{text}`")
    return words


def _expand_word(word: str, room: int) -> list[str]:
    pieces: list[list[str]] = []
    count = 1
    for index, piece in enumerate(re.split(r"[\[\]]", word)):
        if index % 2 == 0:
            pieces.append([piece])
            continue
        bounds = [_bounds(part, word) for part in piece.split(",")]
        count *= sum(last - first + 1 for first, last, _ in bounds)
        if count > room:
            raise NodeRangeError(f"`{word}` names more than {MAX_NAMES:,} nodes", "name fewer")
        pieces.append([f"{n:0{width}d}" for first, last, width in bounds for n in range(first, last + 1)])
    if count > room:
        raise NodeRangeError(f"more than {MAX_NAMES:,} nodes are named", "name fewer")
    return ["".join(parts) for parts in itertools.product(*pieces)]


def _bounds(part: str, word: str) -> tuple[int, int, int]:
    """First, last and least width of `7` or `01-16`."""
    match = _PART.fullmatch(part)
    if match is None:
        raise NodeRangeError(f"`{part}` in `{word}` is no number and no range of numbers")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first:
        raise NodeRangeError(f"`{part}` in `{word}` runs backwards", f"write {match[2]}-{match[1]}")
    return first, last, len(match[1]) if match[1].startswith("0") else 0
