"""Units of time. All durable times are integer Unix nanoseconds; conversions live here and nowhere else."""

from __future__ import annotations

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
NS_PER_MINUTE = 60 * NS_PER_S
NS_PER_DAY = 86_400 * NS_PER_S


def ms(value: int) -> int:
    """Milliseconds as nanoseconds."""
    return value * NS_PER_MS


def seconds(value: float) -> int:
    """Seconds as nanoseconds, rounded to the nearest."""
    return round(value * NS_PER_S)


def to_s(nanoseconds: int) -> float:
    """Nanoseconds as seconds, for people."""
    return nanoseconds / NS_PER_S
