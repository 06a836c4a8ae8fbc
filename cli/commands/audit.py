"""Who changed what: ls, verify."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from cli import render
from cli.client import CALL_TIMEOUT_S, Client
from cli.errors import CliError
from cli.grammar import Group, Option
from cli.options import Output, OutputForm, SiteChoice, for_site
from cli.wire import plain

if TYPE_CHECKING:
    from phalanx.v1 import audit_pb2

    from controlplane.core.audit import AuditEntry

PAGE = 5_000
"""The most that the controller gives at once."""


def register(app: Group) -> None:
    """Adds the group."""
    group = Group("The audit records: who changed what, and whether they are all there.")
    app.add_group(group, name="audit")
    group.command(epilog="Example: phalanx audit ls --subject node/node-3 -o wide")(ls)
    group.command(epilog="Example: phalanx audit verify")(verify)


@for_site
def ls(
    *,
    actor: Annotated[str, Option(help="Only by this identity.")] = "",
    subject: Annotated[str, Option(help="Only about this, for example node/node-3.")] = "",
    since: Annotated[
        int | None, Option(min=0, metavar="NUMBER", help="From this number on, instead of the newest.")
    ] = None,
    limit: Annotated[int, Option(min=1, max=PAGE, help="At most this many.")] = 500,
    output: OutputForm = Output.TABLE,
    site: SiteChoice,
) -> None:
    """List the newest audit records that match, or those after a number; oldest first."""
    from phalanx.v1 import audit_pb2  # noqa: PLC0415

    request = audit_pb2.ListAuditRequest(after_number=since or 0, limit=limit, actor=actor, subject=subject)
    with site.connect() as client:
        if since is None:
            records = _newest(client, request)
        else:
            records = list(client.audit.ListAudit(request, timeout=CALL_TIMEOUT_S).records)
    if output in (Output.JSON, Output.YAML):
        render.document([plain(record) for record in records], output.value)
    elif output is Output.NAME:
        render.lines(str(record.number) for record in records)
    elif records:
        wide = output is Output.WIDE
        headers = ("NUMBER", "AT", "ACTOR", "ROLE", "ACTION", "SUBJECT", "BEFORE", "AFTER")
        more = ("PEER", "REVISION", "REQUEST", "DIGEST")
        render.table((*headers, *more) if wide else headers, [_row(record, wide=wide) for record in records])
    else:
        render.note("no audit records" + (" match" if actor or subject or since else " yet"))


def _newest(client: Client, request: audit_pb2.ListAuditRequest) -> list[audit_pb2.AuditRecord]:
    """The newest `limit` records that match. Numbers have no gaps, so without a filter one page is enough."""
    limit = request.limit
    if not request.actor and not request.subject:
        head = client.audit.ListAudit(type(request)(limit=1), timeout=CALL_TIMEOUT_S).newest_number
        request.after_number = max(0, head - limit)
        return list(client.audit.ListAudit(request, timeout=CALL_TIMEOUT_S).records)
    kept: deque[audit_pb2.AuditRecord] = deque(maxlen=limit)
    request.limit = PAGE
    while page := client.audit.ListAudit(request, timeout=CALL_TIMEOUT_S).records:
        kept.extend(page)
        request.after_number = page[-1].number
    return list(kept)


def _row(record: audit_pb2.AuditRecord, *, wide: bool) -> list[str]:
    at = datetime.fromtimestamp(record.at_ns / 1e9, UTC).astimezone().isoformat(timespec="seconds")
    row = [
        str(record.number), at, record.actor, record.role, record.action, record.subject, record.before or "-",
        record.after or "-",
    ]  # fmt: skip
    return [*row, record.peer, str(record.revision), record.request_id, record.digest] if wide else row


@for_site
def verify(*, site: SiteChoice) -> None:
    """Recompute the chain of all records. Exit code 1 names the first number that is wrong."""
    from controlplane.core import audit  # noqa: PLC0415

    with site.connect() as client:
        walk = _Walk(client)
        broken = audit.verify(walk.links())
        head = audit.Head(walk.newest_number, walk.newest_digest)
        if broken is None and walk.last != head and head.number:
            reason = f"the chain ends at record {walk.last.number}, the controller says {head.number}"
            broken = audit.Broken(walk.last.number + 1, reason)
    if broken is not None:
        raise CliError(
            f"the audit records are broken at number {broken.number}",
            why=broken.reason,
            fix=f"compare with a backup: `phalanx audit ls --since {max(0, broken.number - 3)} --limit 6 -o wide`",
        )
    kept = f"records {walk.first} to {walk.last.number}" if walk.first else "no records"
    beyond = f", older ones than {walk.first} are beyond retention" if walk.first > 1 else ""
    render.out(f"the audit chain holds: {kept}{beyond}, head {walk.last.digest[:16]}")


class _Walk:
    """All audit records, page by page, and what the controller says the newest one is."""

    def __init__(self, client: Client) -> None:
        from controlplane.core.audit import Head  # noqa: PLC0415

        self._client = client
        self.first = 0
        self.last = Head()
        self.newest_number = 0
        self.newest_digest = ""

    def links(self) -> Iterator[AuditEntry]:
        """Oldest first. Ends at the record that was newest when the walk began, so that it ends."""
        from phalanx.v1 import audit_pb2  # noqa: PLC0415

        from controlplane.core.audit import AuditEntry, Head  # noqa: PLC0415

        after, begun = 0, False
        while not begun or after < self.newest_number:
            request = audit_pb2.ListAuditRequest(after_number=after, limit=PAGE)
            answer = self._client.audit.ListAudit(request, timeout=CALL_TIMEOUT_S)
            if not begun:
                begun, self.newest_number, self.newest_digest = True, answer.newest_number, answer.newest_digest
            for record in answer.records:
                if record.number > self.newest_number:
                    return
                self.first = self.first or record.number
                self.last = Head(record.number, record.digest)
                yield AuditEntry(
                    record.number, record.at_ns, record.actor, record.role, record.peer, record.action, record.subject,
                    record.before, record.after, record.request_id, record.previous, record.digest,
                )  # fmt: skip
            if not answer.records:
                return
            after = answer.records[-1].number
