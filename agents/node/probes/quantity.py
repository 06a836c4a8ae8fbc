"""Numbers as vendor tools print them: with a unit, with a word for "I have none", or garbled. Pure."""

from __future__ import annotations

import re

from agents.node.probes.reading import Metric

UNSUPPORTED_WORDS = frozenset(
    {
        "",
        "-",
        "--",
        "n/a",
        "na",
        "none",
        "not supported",
        "[not supported]",
        "[n/a]",
        "unsupported",
        "not available",
        "-1",
    }
)
"""What tools print, in any case, where a device does not have a value."""

NOT_THERE = Metric(None, supported=False)

MOST = 2**53
"""No counter, size or index of a machine is larger: above it a number is a misprint, and no message has room for any."""

_NUMBER = re.compile(r"([-+]?\d+(?:\.\d+)?)\s*([^\s\d].*)?")
_SCALE = {
    "": 1.0,
    "c": 1.0, "°c": 1.0, "℃": 1.0, "celsius": 1.0,
    "w": 1.0, "mw": 1e-3, "uw": 1e-6,
    "hz": 1.0, "khz": 1e3, "mhz": 1e6, "ghz": 1e9,
    "b": 1.0, "bytes": 1.0, "kb": 1024.0, "kib": 1024.0, "mb": 1024.0**2, "mib": 1024.0**2, "gb": 1024.0**3, "gib": 1024.0**3,
    "%": 0.01, "x": 1.0,
}  # fmt: skip


class GarbledError(ValueError):
    """A text that should be a number is none; the message shows it."""


def quantity(text: str, unit: str = "", *, unsupported: frozenset[str] = UNSUPPORTED_WORDS) -> Metric:
    """`text` in the base unit (W, Hz, bytes, 0..1, degrees Celsius): `700.00 W`, `1980 MHz`, `81559 MiB`, `98 %`, `16x`.

    `unit` is used when the text names none. Memory units are powers of 1024, as all vendors' tools mean them.

    Raises:
        GarbledError: neither a number with a known unit nor a word for "not supported".
    """
    word = text.strip()
    if word.lower() in unsupported:
        return NOT_THERE
    found = _NUMBER.fullmatch(word)
    scale = _SCALE.get((found[2] or unit).strip().lower()) if found else None
    if found is None or scale is None:
        raise GarbledError(f"{word[:80]!r} is no number with a unit that is known")
    value = float(found[1]) * scale
    if abs(value) > MOST:
        raise GarbledError(f"{word[:80]!r} is more than anything there is")
    return Metric(value)


def whole(text: str, most: int = MOST) -> int | None:
    """A whole number from 0 to `most` in digits, and nothing else; None when it is none."""
    word = text.strip()
    if not word.isdecimal() or len(word) > len(str(most)):
        return None
    number = int(word)
    return number if number <= most else None
