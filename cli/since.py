"""`--since`: a revision, a moment, or how long ago."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from controlplane.core.manifest import parse_duration


@dataclass(frozen=True, slots=True)
class Since:
    """After this revision, and not before this time (Unix ns); 0: no limit."""

    revision: int = 0
    at_ns: int = 0
    text: str = ""


def parse_since(text: str | Since) -> Since:
    """What was typed: `1200`, `2h`, `2026-11-20`, `2026-11-20T08:30Z`. A ValueError is shown as a usage error."""
    if isinstance(text, Since):
        return text
    if text.isdecimal():
        return Since(revision=int(text), text=f"revision {int(text)}")
    ago_ms = parse_duration(text)
    if ago_ms is not None:
        return Since(at_ns=time.time_ns() - ago_ms * 1_000_000, text=f"{text} ago")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"`{text}` is no moment: write a revision, 2h, or 2026-11-20T08:30Z") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    at_ns = int(moment.timestamp()) * 1_000_000_000
    if at_ns > time.time_ns():
        raise ValueError(f"`{text}` lies in the future")
    return Since(at_ns=at_ns, text=moment.isoformat())
