"""The version of this command line."""

from __future__ import annotations


def own_version() -> str:
    """As installed; `unknown` in a tree that was never installed."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - slow to import

    try:
        return version("phalanx")
    except PackageNotFoundError:
        return "unknown"


def minor_apart(one: str, other: str) -> int | None:
    """How many minor versions lie between two versions (100 for each major one); None when either is no version."""
    numbers = []
    for version in (one, other):
        parts = version.split(".")
        if len(parts) < 2 or not (parts[0].isdecimal() and parts[1].isdecimal()):
            return None
        numbers.append(100 * int(parts[0]) + int(parts[1]))
    return abs(numbers[0] - numbers[1])
