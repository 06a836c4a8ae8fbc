"""The way in for commands: answered once per request id, audited when accepted, refused with the way out."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import assert_never

from controlplane.core import codec
from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.audit import AuditEntry, By, Change, canonical, digest
from controlplane.core.commands import checkpoint, identity, job, node, noted
from controlplane.core.draft import Accepted, Answer, Draft, Refusal


def command(draft: Draft, event: ev.Command, by: By) -> None:
    """Answer a command. A repeat of a request id gets its first answer again and does nothing."""
    asked = _fingerprint(event)
    earlier = draft.state.answers.get(event.request_id) if event.request_id else None
    if earlier is not None:
        draft.reply = Answer(earlier.fields) if earlier.command in ("", asked) else _reused(event)
        return
    outcome = _carry_out(draft, event)
    if isinstance(outcome, Refusal):
        draft.reply = outcome
        return
    draft.reply = Answer(outcome.fields)
    if outcome.change is None:
        return
    draft.write(r.Audited(_link(draft, event, outcome.change, by)))
    if event.request_id:
        draft.write(r.RequestAnswered(event.request_id, outcome.fields, asked))


def _carry_out(draft: Draft, event: ev.Command) -> Accepted | Refusal:
    match event:
        case ev.SubmitJob():
            return job.submit(draft, event)
        case ev.CancelJob():
            return job.cancel(draft, event)
        case ev.RestartJob():
            return job.restart(draft, event)
        case ev.CordonNode() | ev.DrainNode():
            return node.cordon(draft, event)
        case ev.UncordonNode():
            return node.uncordon(draft, event)
        case ev.RetireNode():
            return node.retire(draft, event)
        case ev.InjectFault():
            return node.inject(draft, event)
        case ev.VerifyCheckpoint():
            return checkpoint.verify(draft, event)
        case ev.PinCheckpoint():
            return checkpoint.pin(draft, event)
        case ev.UnpinCheckpoint():
            return checkpoint.unpin(draft, event)
        case ev.PoisonCheckpoint():
            return checkpoint.poison(draft, event)
        case ev.ClearCheckpoints():
            return checkpoint.clear(draft, event)
        case ev.CompactJournal():
            return noted.compact(draft, event)
        case ev.KeepCode():
            return noted.keep_code(event)
        case (
            ev.CreateToken() | ev.Join() | ev.Renew() | ev.IssueOperator() | ev.RevokeIdentity() | ev.ReinstateIdentity()
        ):  # fmt: skip
            return identity.carry_out(draft, event)
        case _:
            assert_never(event)


def _fingerprint(event: ev.Command) -> str:
    """What a command asks for, whatever its request id."""
    asked = {"command": type(event).__name__, **codec.encode(dataclasses.replace(event, request_id=""))}
    return hashlib.sha256(canonical(asked).encode()).hexdigest()[:32]


def _reused(event: ev.Command) -> Refusal:
    text = (
        f"request id {event.request_id} was used for another request before: a repeat must ask for the same, anything else "
        "needs an id of its own"
    )
    return Refusal("conflict", "REQUEST_ID_REUSED", text)


def _link(draft: Draft, event: ev.Command, change: Change, by: By) -> AuditEntry:
    """The next record of the audit chain."""
    head = draft.state.audit
    link = AuditEntry(
        number=head.number + 1,
        at_ns=draft.now_ns,
        actor=by.actor,
        role=by.role,
        peer=by.peer,
        action=type(event).__name__,
        subject=change.subject,
        before=canonical(change.before),
        after=canonical(change.after),
        request_id=event.request_id,
        previous=head.digest,
        digest="",
    )
    return dataclasses.replace(link, digest=digest(link))
