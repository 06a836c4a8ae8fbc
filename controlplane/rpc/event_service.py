"""EventService: the journal for people. Reads run in worker threads, on connections that cannot write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from phalanx.v1 import event_pb2, event_pb2_grpc

from controlplane.core import records as r
from controlplane.core.draft import Refusal
from controlplane.engine.ports import Compacted, JournalEntry, JournalUnavailable
from controlplane.rpc.codec import rfc3339
from controlplane.rpc.errors import OLDEST_KEY, RequestRefused, refuse
from controlplane.rpc.explain import Explanation, explain
from controlplane.rpc.history import History, decode
from controlplane.rpc.narrate import VISIBLE, Names, narrate, shown
from controlplane.rpc.site import Site, wait_for
from controlplane.rpc.verdicts import Nodes, Pair

DEFAULT_LIMIT = 200
MAX_LIMIT = 5_000
OVERFETCH = 4
"""Entries are hidden after the read: this many times the limit are read first."""
WATCH_PAGE = 500
BOOKMARK_S = 5.0
NAMES_MANY_NODES = (r.LivenessChanged.__name__, r.CellMembershipChanged.__name__)
"""Types that are about several nodes: the journal's node column is empty for them."""

HISTORY = frozenset(VISIBLE) - {
    kind.__name__
    for kind in (
        r.Audited, r.TokenCreated, r.TokenSpent, r.CertificateIssued, r.IdentityRevoked, r.IdentityReinstated,
    )
}  # fmt: skip
"""Record types that `ReadHistory` tells."""


class EventService(event_pb2_grpc.EventServiceServicer):
    """See proto/phalanx/v1/event.proto."""

    def __init__(self, site: Site, history: History) -> None:
        self._site = site
        self._history = history

    async def ListEvents(self, request: event_pb2.ListEventsRequest, context: Any) -> event_pb2.ListEventsResponse:
        """The newest events that match, oldest first."""
        limit = min(request.limit or DEFAULT_LIMIT, MAX_LIMIT)
        revision = self._site.state.revision
        _check_revision(request.after_revision, revision)
        job = self._uid(request.job)
        entries = await self._newest(limit * OVERFETCH, request.after_revision, job, request.node)
        events = await self.events(entries)
        return event_pb2.ListEventsResponse(revision=revision, events=events[-limit:])

    async def WatchEvents(
        self, request: event_pb2.WatchEventsRequest, context: Any
    ) -> AsyncIterator[event_pb2.WatchEventsResponse]:
        """Events after a revision, then live ones; bookmarks in between."""
        site = self._site
        cursor = request.after_revision
        _check_revision(cursor, site.state.revision)
        job = self._uid(request.job)
        told_at = site.loop.time()
        while True:
            ticket = site.commits.ticket()
            entries = await self._read(cursor)
            events: list[event_pb2.Event] = []
            if entries:
                cursor = entries[-1].revision
                events = await self.events(entry for entry in entries if _matches(entry, job, request.node))
            if events or site.loop.time() - told_at >= BOOKMARK_S:
                told_at = site.loop.time()
                yield event_pb2.WatchEventsResponse(revision=cursor, events=events)
            if len(entries) < WATCH_PAGE:
                await wait_for(ticket, max(0.0, told_at + BOOKMARK_S - site.loop.time()))

    async def Explain(self, request: event_pb2.ExplainRequest, context: Any) -> event_pb2.ExplainResponse:
        """Why something is as it is: a summary from the state, and the decisions that led there, newest last."""
        if request.kind == event_pb2.SUBJECT_KIND_UNSPECIFIED:
            refuse("invalid", "INVALID_FIELD", "kind is unspecified: name job, node, rank or checkpoint")
        state = self._site.state
        now_ns = self._site.now_ns()
        explanation: Explanation = explain(state, self._site.progress, request.kind, request.name, now_ns)
        entries = await self._newest(explanation.limit, 0, explanation.job, explanation.node, types=explanation.types)
        kept = [entry for entry in entries if explanation.about(decode(entry))]
        pairs, nodes = await self._verdicts(explanation)
        verdicts = [record for _, record in pairs if isinstance(record, r.RecoveryDecided)]
        newest = verdicts[-1] if verdicts else None
        return event_pb2.ExplainResponse(
            revision=state.revision,
            summary=explanation.summary,
            chain=(await self.events(kept))[-explanation.shown :],
            decisions=explanation.verdicts.tell(pairs, nodes),
            changes=await asyncio.to_thread(explanation.changes, newest),
        )

    async def _verdicts(self, explanation: Explanation) -> tuple[list[Pair], Nodes]:
        """What the explanation's verdicts are told from."""
        wanted = explanation.verdicts
        if not wanted.types:
            return [], {}
        entries = await self._newest(wanted.limit, 0, wanted.job, "", types=wanted.types)
        pairs = await asyncio.to_thread(lambda: [(entry, decode(entry)) for entry in entries])
        if not wanted.placed:
            return pairs, {}
        jobs = {record.job for _, record in pairs if isinstance(record, r.RanksLost)}
        return pairs, {(uid, serial): node for uid in jobs for serial, node in (await self._history.nodes(uid)).items()}

    async def ReadHistory(
        self, request: event_pb2.ReadHistoryRequest, context: Any
    ) -> AsyncIterator[event_pb2.ReadHistoryResponse]:
        """Stored records of some types, the archive's too, in pages; ends at the revision that was newest at the call."""
        site = self._site
        types, newest, cursor = _told_types(request.types), site.state.revision, request.after_revision
        _check_revision(cursor, newest)
        while cursor < newest:
            entries = await self._oldest(cursor, types)
            records = [
                event_pb2.Record(
                    revision=entry.revision, at_unix_ns=entry.at_ns, type=entry.type, version=entry.version,
                    body_json=entry.body,
                )
                for entry in entries
            ]  # fmt: skip
            cursor = entries[-1].revision if entries else newest
            yield event_pb2.ReadHistoryResponse(revision=newest, records=records)

    async def _oldest(self, after: int, types: tuple[str, ...]) -> list[JournalEntry]:
        try:
            return await asyncio.to_thread(self._site.journal.oldest, WATCH_PAGE, after=after, types=types)
        except JournalUnavailable as error:
            refuse("unavailable", "JOURNAL_UNAVAILABLE", str(error))

    async def events(self, entries: Iterable[JournalEntry]) -> list[event_pb2.Event]:
        """Entries as events, without those that are bookkeeping."""
        pairs = await asyncio.to_thread(_shown, tuple(entries))  # the loss of many ranks is megabytes
        names = Names(self._site.state, await self._host_nodes(record for _, record in pairs))
        return [
            event_pb2.Event(
                revision=entry.revision,
                at=rfc3339(entry.at_ns),
                type=entry.type,
                job=names.job(entry.job) if entry.job else "",
                node=entry.node,
                message=narrate(record, names),
                epoch=entry.epoch,
                body_json=entry.body,
            )
            for entry, record in pairs
        ]

    async def _host_nodes(self, records: Iterable[r.Record]) -> dict[str, dict[int, int]]:
        jobs = {record.job for record in records if isinstance(record, r.HostEnded | r.StartFailed)}
        return {uid: await self._history.nodes(uid) for uid in jobs}

    async def _newest(
        self, limit: int, after: int, job: str, node: str, types: Sequence[str] = VISIBLE
    ) -> list[JournalEntry]:
        journal = self._site.journal
        try:
            found = await asyncio.to_thread(journal.newest, limit, after=after, job=job, node=node, types=types)
            many = tuple(name for name in types if name in NAMES_MANY_NODES)
            if node and many and not job:
                others = await asyncio.to_thread(journal.newest, limit, after=after, types=many)
                found += [entry for entry in others if _names_node(entry, node)]
                found = sorted(found, key=lambda entry: entry.revision)[-limit:]
        except JournalUnavailable as error:
            refuse("unavailable", "JOURNAL_UNAVAILABLE", str(error))
        return found

    async def _read(self, cursor: int) -> list[JournalEntry]:
        try:
            return await asyncio.to_thread(self._site.journal.read, cursor, WATCH_PAGE)
        except Compacted as error:
            text = f"{error}"
            metadata = ((OLDEST_KEY, str(error.oldest)),)
            raise RequestRefused(Refusal("out_of_range", "COMPACTED", text), metadata) from error
        except JournalUnavailable as error:
            refuse("unavailable", "JOURNAL_UNAVAILABLE", str(error))

    def _uid(self, job: str) -> str:
        """Uid of the newest job of a name; what is no name is taken as a uid."""
        return self._site.state.names.get(job, job)


def _shown(entries: Iterable[JournalEntry]) -> list[Pair]:
    return [(entry, record) for entry in entries if shown(record := decode(entry))]


def _told_types(types: Sequence[str]) -> tuple[str, ...]:
    """The record types of a request; those of identities and of the audit chain are not told here."""
    if not types or not set(types) <= HISTORY:
        wrong = sorted(set(types) - HISTORY)[:4]
        text = f"types {wrong} are not told" if wrong else "types is empty: name the record types to read"
        refuse("invalid", "INVALID_FIELD", text)
    return tuple(dict.fromkeys(types))


def _check_revision(after: int, newest: int) -> None:
    """Refuse a revision that does not exist yet: whoever names it has seen another journal."""
    if after > newest:
        text = f"revision {after} does not exist yet, the newest is {newest}: ask from there"
        refuse("out_of_range", "REVISION_IN_FUTURE", text)


def _matches(entry: JournalEntry, job: str, node: str) -> bool:
    if job and entry.job != job:
        return False
    return not node or entry.node == node or (entry.type in NAMES_MANY_NODES and _names_node(entry, node))


def _names_node(entry: JournalEntry, node: str) -> bool:
    record = decode(entry)
    match record:
        case r.LivenessChanged():
            return node in record.nodes
        case r.CellMembershipChanged():
            return node in record.joined or node in record.left
        case _:
            return False
