"""Structured logging and counters of the agents. The rank's own output stays text; everything else is JSON lines."""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any

import structlog
from google.protobuf.message import Message
from structlog.typing import EventDict, Processor, WrappedLogger

FORMS = ("json", "console")
LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

# Kinds are few and constant, but the (host, kind) pairs for which a line was already logged come from outside.
_LOGGED_ONCE_LIMIT = 4096
_PROCESS: dict[str, object] = {}


def add_logging(parser: argparse.ArgumentParser) -> None:
    """The options of every agent for its log."""
    add = parser.add_argument
    add("--log-level", default="info", choices=LEVELS, help="least important lines that are written (default: info)")
    add("--log-format", default="json", choices=FORMS, help="json for collectors, console for people (default: json)")


def configure_logging(level: str = "info", form: str = "json") -> None:
    """One line per event to stdout, with constant event names. `console` is for people at a terminal."""
    render: Processor = (
        structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer(colors=False)
    )
    traceback: list[Processor] = [structlog.processors.format_exc_info] if form == "json" else []
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _add_process,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *traceback,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )


def name_process(**fields: object) -> None:
    """Add fields to every further line of this process, whichever task or thread writes it; for example its node."""
    _PROCESS.update(fields)


def note_order(effect_id: str, body: Message | None) -> None:
    """Every further line of this task, and of those it starts, says which order it carries out, for which job."""
    about: dict[str, Any] = {"effect_id": effect_id}
    names = body.DESCRIPTOR.fields_by_name if body is not None else {}
    for field, key in (("job_name", "job"), ("job_uid", "uid"), ("generation", "generation")):
        if field in names:
            about[key] = getattr(body, field)
    structlog.contextvars.bind_contextvars(**about)


def _add_process(_logger: WrappedLogger, _method: str, event: EventDict) -> Mapping[str, Any]:
    return {**_PROCESS, **event}


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
