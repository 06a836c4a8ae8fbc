"""Records about tokens and certificates into state."""

from __future__ import annotations

from controlplane.core import records as r
from controlplane.core.identity import Identity, IdentityBook, Token

_IdentityRecord = r.TokenCreated | r.TokenSpent | r.CertificateIssued | r.IdentityRevoked | r.IdentityReinstated


def identity(book: IdentityBook, record: _IdentityRecord, at_ns: int) -> IdentityBook:
    """The book after a record about tokens or certificates."""
    match record:
        case r.TokenCreated():
            token = Token(record.digest, record.kind, record.name, record.speaks_for, record.expires_ns)
            return book.with_token(token, at_ns)
        case r.TokenSpent():
            return book.with_spent(record.digest, record.key)
        case r.CertificateIssued():
            identity = Identity(
                record.kind, record.name, record.role, record.speaks_for, record.series, record.serial,
                record.issued_ns, record.expires_ns,
            )  # fmt: skip
            return book.with_identity(identity)
        case r.IdentityRevoked():
            return book.revoked(record.kind, record.name, record.reason)
        case r.IdentityReinstated():
            return book.reinstated(f"{record.kind}/{record.name}")
