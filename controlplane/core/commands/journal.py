"""What administrators do to the journal itself. The edge does it; the machine only records who asked for it."""

from __future__ import annotations

from controlplane.core import events as ev
from controlplane.core.audit import Change
from controlplane.core.draft import Accepted, Draft


def compact(draft: Draft, event: ev.CompactJournal) -> Accepted:
    """Record that the journal is compacted. Decisions and audit records outlive that in the archive."""
    before = {"revision": draft.state.revision}
    return Accepted(Change("site/journal", before, {"before_revision": event.before_revision or "retention"}))
