"""Records about faults, sources, quarantines and the detector into state."""

from __future__ import annotations

from controlplane.core import records as r
from controlplane.core.state import State

Health = r.DetectorDegraded | r.DetectorRestored | r.LinksReported
"""Records that only the health part reads."""


def health(state: State, record: Health, at_ns: int) -> None:
    """What the health part remembers."""
    book = state.own_health()
    match record:
        case r.DetectorDegraded():
            book.degraded, book.degraded_since_ns = record.reasons, at_ns
        case r.DetectorRestored():
            book.degraded, book.degraded_since_ns = (), 0
        case r.LinksReported():
            if record.broken:
                book.links[record.node] = record.broken
            else:
                book.links.pop(record.node, None)
