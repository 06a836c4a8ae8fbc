"""The version of this command line."""

from __future__ import annotations


def own_version() -> str:
    """As installed; `unknown` in a tree that was never installed."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - slow to import

    try:
        return version("phalanx")
    except PackageNotFoundError:
        return "unknown"
