"""Durations as options: `90`, `90s`, `500ms`, `5m`, `1h`; a bare number is seconds."""

from __future__ import annotations

from typing import Annotated

from cli.grammar import Option
from controlplane.core.manifest import parse_duration

MAX_S = 366 * 86_400.0


def parse_seconds(text: str | float) -> float:
    """Seconds of a duration as it is typed. A ValueError is shown as a usage error."""
    if isinstance(text, (int, float)):
        return float(text)
    milliseconds = parse_duration(text)
    try:
        value = float(text) if milliseconds is None else milliseconds / 1_000
    except ValueError:
        raise ValueError(f"`{text}` is no duration: write 90, 90s, 500ms, 5m or 1h") from None
    if not 0 <= value <= MAX_S:
        raise ValueError(f"`{text}` is not between 0 and {MAX_S / 86_400:.0f} days")
    return value


Timeout = Annotated[
    float | None,
    Option("--timeout", parser=parse_seconds, metavar="DURATION", help="Give up after this time (exit code 6)."),
]
Wait = Annotated[bool, Option("--wait", help="Return when it is done.")]
