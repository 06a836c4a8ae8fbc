"""Durable records about who may connect; see `records`, which names them all."""

from __future__ import annotations

from dataclasses import dataclass

from controlplane.core.identity import Role


@dataclass(frozen=True, slots=True)
class TokenCreated:
    """A join token exists; only the SHA-256 of its text is kept."""

    digest: str
    kind: str
    name: str
    speaks_for: tuple[str, ...]
    expires_ns: int


@dataclass(frozen=True, slots=True)
class TokenSpent:
    """A join token was used with a public key (its digest); no other key can use it."""

    digest: str
    kind: str
    name: str
    key: str


@dataclass(frozen=True, slots=True)
class CertificateIssued:
    """An identity has a new certificate. `how`: join, renew, operator, or outside (made with the authority's own key)."""

    kind: str
    name: str
    role: Role
    speaks_for: tuple[str, ...]
    series: int
    serial: str
    issued_ns: int
    expires_ns: int
    how: str


@dataclass(frozen=True, slots=True)
class IdentityRevoked:
    """Every certificate and token of the identity is refused from now on."""

    kind: str
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class IdentityReinstated:
    """The identity may get certificates again."""

    kind: str
    name: str
