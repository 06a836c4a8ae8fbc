"""Durations as people write them: `200ms`, `2s`, `5m`, `1h`. A bare number would leave the unit to memory."""

from __future__ import annotations

import re
from fractions import Fraction

_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)(ms|s|m|h)")
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
FIX = "write a number with a unit: 200ms, 2s, 5m or 1h"


def format_duration(duration_ms: int) -> str:
    """The shortest exact text of a duration: 3600000 is `1h`, 1500 is `1500ms`."""
    for unit in ("h", "m", "s"):
        if duration_ms and duration_ms % _UNIT_MS[unit] == 0:
            return f"{duration_ms // _UNIT_MS[unit]}{unit}"
    return f"{duration_ms}ms"


def parse_duration(text: str) -> int | None:
    """Milliseconds of `200ms`, `2s`, `1.5m`, `1h`; None when the text is no duration of whole milliseconds."""
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    value = Fraction(match[1]) * _UNIT_MS[match[2]]
    return int(value) if value.denominator == 1 else None
