"""Commands that the edge carries out itself: the machine only notes who gave them, in the audit chain."""

from __future__ import annotations

from controlplane.core import events as ev
from controlplane.core.audit import Change
from controlplane.core.draft import Accepted, Draft


def compact(draft: Draft, event: ev.CompactJournal) -> Accepted:
    """The journal is compacted. Decisions and audit records outlive that in the archive."""
    before = {"revision": draft.state.revision}
    return Accepted(Change("site/journal", before, {"before_revision": event.before_revision or "retention"}))


def keep_code(event: ev.KeepCode) -> Accepted:
    """Code was uploaded and is kept under its digest."""
    return Accepted(Change(f"code/{event.digest}", {}, {"stored": True}))
