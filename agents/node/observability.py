"""Structured logging and counters of the agent."""

from __future__ import annotations

import sys
from collections import Counter

import structlog

# Kinds are few and constant, but the (host, kind) pairs for which a line was already logged come from outside.
_LOGGED_ONCE_LIMIT = 4096


def configure_logging() -> None:
    """JSON lines to stdout, one per event, with constant event names."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )


class Counters:
    """Counts of what was refused, dropped or cut, and the memory of which of it was already logged."""

    def __init__(self) -> None:
        self.values: Counter[str] = Counter()
        self._logged: set[tuple[str, str]] = set()

    def add(self, name: str, amount: int = 1) -> None:
        """Count `amount` more of `name`."""
        self.values[name] += amount

    def first(self, subject: str, kind: str) -> bool:
        """Whether this is the first time for (subject, kind): the caller logs only then."""
        if (subject, kind) in self._logged:
            return False
        if len(self._logged) >= _LOGGED_ONCE_LIMIT:
            self._logged.clear()
        self._logged.add((subject, kind))
        return True
