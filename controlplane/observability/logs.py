"""JSON lines to stdout, one per event, with constant event names. Keys: job, node, generation, epoch, request_id, caller."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

FORMS = ("json", "console")
LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_PROCESS: dict[str, object] = {}


def name_process(**fields: object) -> None:
    """Add fields to every further line of this process, whichever thread writes it; for example its epoch."""
    _PROCESS.update(fields)


def configure_logging(level: str = "info", form: str = "json") -> None:
    """Set the process's log up. `console` is for people at a terminal; what collects logs wants `json`."""
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


def _add_process(_logger: WrappedLogger, _method: str, event: EventDict) -> Mapping[str, Any]:
    return {**_PROCESS, **event}
