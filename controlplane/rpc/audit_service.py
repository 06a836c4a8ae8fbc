"""AuditService: who changed what, oldest first, in pages."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any, cast

from phalanx.v1 import audit_pb2, audit_pb2_grpc

from controlplane.core import records as r
from controlplane.core.audit import AuditEntry
from controlplane.engine.ports import JournalEntry
from controlplane.rpc.history import decode
from controlplane.rpc.site import Site

DEFAULT_PAGE = 500
MAX_PAGE = 5_000
READ = 2_000
"""Entries per read of the journal."""
REMEMBERED = 256
"""Ends of pages whose revision is known, so that the next page is read from there and not from the beginning."""
TYPES = (r.Audited.__name__,)


class AuditService(audit_pb2_grpc.AuditServiceServicer):
    """See proto/phalanx/v1/audit.proto."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._revisions: OrderedDict[int, int] = OrderedDict()

    async def ListAudit(self, request: audit_pb2.ListAuditRequest, context: Any) -> audit_pb2.ListAuditResponse:
        """Records after a number, at most a page; with filters those that match."""
        state = self._site.state
        limit = min(request.limit or DEFAULT_PAGE, MAX_PAGE)
        found = await asyncio.to_thread(self._page, request, limit, state.audit.number)
        if found:
            self._remember(found[-1])
        first = await asyncio.to_thread(self._site.journal.oldest, 1, types=TYPES)
        return audit_pb2.ListAuditResponse(
            revision=state.revision,
            records=[_message(entry) for entry in found],
            newest_number=state.audit.number,
            newest_digest=state.audit.digest,
            oldest_number=_link(first[0]).number if first else 0,
        )

    def _page(self, request: audit_pb2.ListAuditRequest, limit: int, newest: int) -> list[JournalEntry]:
        """In a worker thread. Records that are newer than the state at hand are left for the next call."""
        found: list[JournalEntry] = []
        after = self._revisions.get(request.after_number, 0)
        while entries := self._site.journal.oldest(READ, after=after, types=TYPES):
            for entry in entries:
                link = _link(entry)
                if link.number > newest or len(found) == limit:
                    return found
                wanted = request.actor in ("", link.actor) and request.subject in ("", link.subject)
                if wanted and link.number > request.after_number:
                    found.append(entry)
            after = entries[-1].revision
        return found

    def _remember(self, entry: JournalEntry) -> None:
        self._revisions[_link(entry).number] = entry.revision
        while len(self._revisions) > REMEMBERED:
            self._revisions.popitem(last=False)


def _link(entry: JournalEntry) -> AuditEntry:
    return cast("r.Audited", decode(entry)).entry


def _message(entry: JournalEntry) -> audit_pb2.AuditRecord:
    link = _link(entry)
    return audit_pb2.AuditRecord(
        number=link.number,
        revision=entry.revision,
        at_ns=link.at_ns,
        actor=link.actor,
        role=link.role,
        peer=link.peer,
        action=link.action,
        subject=link.subject,
        before=link.before,
        after=link.after,
        request_id=link.request_id,
        previous=link.previous,
        digest=link.digest,
    )
