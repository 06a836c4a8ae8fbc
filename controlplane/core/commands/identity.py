"""Tokens, certificates, revocation: who gets which identity, decided before anything is signed.

The edge draws serial numbers and token texts (nothing here is random) and signs only what was recorded here.
"""

from __future__ import annotations

from typing import Any, assert_never

from controlplane.core import events as ev
from controlplane.core import records as r
from controlplane.core.audit import Change
from controlplane.core.draft import Accepted, Answer, Draft, Refusal
from controlplane.core.identity import AGENT_KINDS, MAX_IDENTITIES, MAX_TOKENS, OPERATOR, Identity, Role
from controlplane.core.units import ms

RENEWAL_PAUSE_MS = 60_000
"""Each certificate is two records for years: an agent that asks without end must not fill the journal. Asking again after a
lost answer only has to wait, and a renewal begins with hours left."""
TOKEN_HINT = "`phalanx token create` makes a new one"


def carry_out(draft: Draft, event: ev.IdentityCommand) -> Accepted | Refusal:
    """Decide a command about identities."""
    match event:
        case ev.CreateToken():
            return _create_token(draft, event)
        case ev.Join():
            return _join(draft, event)
        case ev.Renew():
            return _renew(draft, event)
        case ev.IssueOperator():
            return _issue_operator(draft, event)
        case ev.RevokeIdentity():
            return _revoke(draft, event)
        case ev.ReinstateIdentity():
            return _reinstate(draft, event)
        case _:
            assert_never(event)


def certificate_seen(draft: Draft, event: ev.CertificateSeen) -> None:
    """Keep what was issued outside of a controller, when nothing newer is known of the identity."""
    known = draft.state.identity.identities.get(f"{event.kind}/{event.name}")
    draft.reply = Answer()
    if known and (known.revoked or known.series != event.series or known.issued_ns >= event.issued_ns):
        return
    draft.write(
        r.CertificateIssued(
            event.kind, event.name, event.role, event.speaks_for, event.series, event.serial, event.issued_ns,
            event.expires_ns, "outside",
        )
    )  # fmt: skip


def _create_token(draft: Draft, event: ev.CreateToken) -> Accepted | Refusal:
    book, subject = draft.state.identity, f"{event.kind}/{event.name}"
    revoked = _revoked(draft, subject, "conflict")
    if revoked:
        return revoked
    if event.kind not in AGENT_KINDS:
        text = f"a {event.kind} does not join with a token: use `phalanx identity issue` for operators"
        return Refusal("invalid", "NO_AGENT", text)
    if event.digest in book.tokens:
        text = f"this request made a token for {subject} before: ask for another with a request id of its own"
        return Refusal("conflict", "REQUEST_ID_REUSED", text)
    waiting = sum(token.expires_ns > draft.now_ns and not token.key for token in book.tokens.values())
    if waiting >= MAX_TOKENS or len(book.identities) >= MAX_IDENTITIES:
        text = f"{waiting} join tokens are open and {len(book.identities)} identities exist: wait until tokens expire"
        return Refusal("exhausted", "TOO_MANY_TOKENS", text)
    expires_ns = draft.now_ns + ms(event.ttl_ms)
    draft.write(r.TokenCreated(event.digest, event.kind, event.name, event.speaks_for, expires_ns))
    after = {"token": event.digest[:16], "expires_ns": expires_ns, "speaks_for": list(event.speaks_for)}
    fields = {"digest": event.digest, "expires_ns": str(expires_ns)}
    return Accepted(Change(f"identity/{subject}", {}, after), fields)


def _join(draft: Draft, event: ev.Join) -> Accepted | Refusal:
    token = draft.state.identity.tokens.get(event.token)
    if token is None:
        text = f"this join token is unknown here, withdrawn or long expired: {TOKEN_HINT}"
        return Refusal("unauthenticated", "TOKEN_UNKNOWN", text)
    if token.expires_ns <= draft.now_ns:
        text = f"the join token for {token.subject} has expired: {TOKEN_HINT}"
        return Refusal("unauthenticated", "TOKEN_EXPIRED", text)
    if token.key and token.key != event.key:
        text = f"the join token for {token.subject} was used already, with another key: find out by whom; {TOKEN_HINT}"
        return Refusal("unauthenticated", "TOKEN_SPENT", text)
    revoked = _revoked(draft, token.subject, "unauthenticated")
    if revoked:
        return revoked
    if not token.key:
        draft.write(r.TokenSpent(event.token, token.kind, token.name, event.key))
    identity = Identity(token.kind, token.name, Role.NONE, token.speaks_for)
    return _issue(draft, identity, event.serial, event.ttl_ms, "join")


def _renew(draft: Draft, event: ev.Renew) -> Accepted | Refusal:
    identity = Identity(event.kind, event.name, Role.NONE, event.speaks_for)
    revoked = _revoked(draft, identity.subject, "unauthenticated")
    if revoked:
        return revoked
    if event.series != draft.state.identity.series(identity.subject):
        text = f"{identity.subject} was revoked after this certificate was issued: {TOKEN_HINT}"
        return Refusal("unauthenticated", "REVOKED", text)
    known = draft.state.identity.identities.get(identity.subject)
    pause_ns = ms(min(RENEWAL_PAUSE_MS, event.ttl_ms // 20))
    if known is not None and draft.now_ns < known.issued_ns + pause_ns:
        text = (
            f"{identity.subject} got a certificate less than {pause_ns / 1e9:g} s ago: use that one, or ask again then"
        )
        return Refusal("exhausted", "RENEWED_JUST_NOW", text)
    return _issue(draft, identity, event.serial, event.ttl_ms, "renew")


def _issue_operator(draft: Draft, event: ev.IssueOperator) -> Accepted | Refusal:
    identity, book = Identity(OPERATOR, event.name, event.role), draft.state.identity
    revoked = _revoked(draft, identity.subject, "conflict")
    if revoked:
        return revoked
    if len(book.identities) >= MAX_IDENTITIES and identity.subject not in book.identities:
        return Refusal("exhausted", "TOO_MANY_IDENTITIES", f"{MAX_IDENTITIES} identities exist, the limit")
    return _issue(draft, identity, event.serial, event.ttl_ms, "operator")


def _issue(draft: Draft, identity: Identity, serial: str, ttl_ms: int, how: str) -> Accepted:
    """Record the certificate; the answer holds what is to be signed."""
    subject = identity.subject
    series, expires_ns = draft.state.identity.series(subject), draft.now_ns + ms(ttl_ms)
    before = _shown(draft.state.identity.identities.get(subject))
    issued = r.CertificateIssued(
        identity.kind, identity.name, identity.role, identity.speaks_for, series, serial, draft.now_ns, expires_ns, how
    )
    draft.write(issued)
    fields = {
        "kind": identity.kind, "name": identity.name, "role": str(int(identity.role)), "series": str(series),
        "speaks_for": " ".join(identity.speaks_for), "serial": serial, "issued_ns": str(draft.now_ns),
        "expires_ns": str(expires_ns),
    }  # fmt: skip
    after = {"serial": serial, "expires_ns": expires_ns, "role": identity.role.name, "revoked": False}
    return Accepted(Change(f"identity/{subject}", before, after), fields)


def _shown(known: Identity | None) -> dict[str, Any]:
    """What an audit record says of an identity."""
    if known is None:
        return {}
    return {
        "serial": known.serial, "expires_ns": known.expires_ns, "role": known.role.name, "revoked": known.revoked
    }  # fmt: skip


def _revoked(draft: Draft, subject: str, code: str) -> Refusal | None:
    known = draft.state.identity.identities.get(subject)
    if known is None or not known.revoked:
        return None
    text = f"{subject} is revoked ({known.reason}): `phalanx identity reinstate {subject}` first"
    return Refusal(code, "REVOKED", text)


def _revoke(draft: Draft, event: ev.RevokeIdentity) -> Accepted | Refusal:
    subject = f"{event.kind}/{event.name}"
    known = draft.state.identity.identities.get(subject)
    if known is None and not any(token.subject == subject for token in draft.state.identity.tokens.values()):
        text = f"no certificate and no token of {subject} is known: `phalanx identity ls` lists the identities"
        return Refusal("not_found", "NO_SUCH_IDENTITY", text)
    if known is not None and known.revoked:
        return Refusal("conflict", "REVOKED", f"{subject} is revoked already: {known.reason}")
    draft.write(r.IdentityRevoked(event.kind, event.name, event.reason))
    return Accepted(Change(f"identity/{subject}", _shown(known), {"revoked": True, "reason": event.reason}))


def _reinstate(draft: Draft, event: ev.ReinstateIdentity) -> Accepted | Refusal:
    subject = f"{event.kind}/{event.name}"
    known = draft.state.identity.identities.get(subject)
    if known is None or not known.revoked:
        return Refusal("conflict", "NOT_REVOKED", f"{subject} is not revoked: nothing to reinstate")
    draft.write(r.IdentityReinstated(event.kind, event.name))
    return Accepted(Change(f"identity/{subject}", _shown(known), {"revoked": False}))
