"""Who there is: identities, join tokens and what they may speak for. Plain values; certificates are the edge's business.

An identity is known by its subject, `<kind>/<name>`. Its series grows with every revocation and stands in each of its
certificates, so that a certificate from before is told from one after without comparing clocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum

from controlplane.core.units import ms

NODE, CELL, RELAY, OPERATOR, CONTROLLER = "node", "cell", "relay", "operator", "controller"
AGENT_KINDS = (NODE, CELL, RELAY)
"""Kinds that join with a token."""
KINDS = (*AGENT_KINDS, OPERATOR)

MAX_TOKENS = 20_000
"""Open tokens: three per node of the largest site."""
MAX_IDENTITIES = 100_000
MAX_PATTERNS = 1_000
"""Names or ranges that one cell or relay may speak for."""
TOKEN_MEMORY_NS = ms(3_600_000)
"""An expired token is remembered for an hour, so that its late user is told what happened."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
"""Names of nodes, cells, relays and operators."""
_RANGE = re.compile(r"(?P<head>[A-Za-z0-9._-]*)\[(?P<low>\d{1,9})-(?P<high>\d{1,9})\](?P<tail>[A-Za-z0-9._-]*)")


class Role(IntEnum):
    """What an operator may do; each includes the ones below. Agents have none."""

    NONE = 0
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Identity:
    """What is known of one identity: its newest certificate, and whether it is revoked. Times are Unix nanoseconds."""

    kind: str
    name: str
    role: Role = Role.NONE
    speaks_for: tuple[str, ...] = ()
    series: int = 1
    serial: str = ""
    issued_ns: int = 0
    expires_ns: int = 0
    revoked: bool = False
    reason: str = ""

    @property
    def subject(self) -> str:
        """`<kind>/<name>`."""
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True)
class Token:
    """A join token by the SHA-256 of its text. `key` is the digest of the public key that spent it, "" while it is open."""

    digest: str
    kind: str
    name: str
    speaks_for: tuple[str, ...]
    expires_ns: int
    key: str = ""

    @property
    def subject(self) -> str:
        """`<kind>/<name>`."""
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True)
class IdentityBook:
    """All identities by subject and tokens by digest; replaced on change."""

    identities: dict[str, Identity] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=dict)

    def series(self, subject: str) -> int:
        """The series that certificates of a subject must have now."""
        known = self.identities.get(subject)
        return known.series if known else 1

    def with_token(self, token: Token, now_ns: int) -> IdentityBook:
        """A token more; those that expired long ago are forgotten."""
        kept = {key: one for key, one in self.tokens.items() if one.expires_ns + TOKEN_MEMORY_NS > now_ns}
        return replace(self, tokens=kept | {token.digest: token})

    def with_spent(self, digest: str, key: str) -> IdentityBook:
        """A token belongs to one public key from now on."""
        return replace(self, tokens=self.tokens | {digest: replace(self.tokens[digest], key=key)})

    def with_identity(self, identity: Identity) -> IdentityBook:
        """An identity as it is now."""
        return replace(self, identities=self.identities | {identity.subject: identity})

    def revoked(self, kind: str, name: str, reason: str) -> IdentityBook:
        """Every certificate of the identity and every token for it is refused from now on."""
        known = self.identities.get(f"{kind}/{name}") or Identity(kind, name)
        gone = replace(known, revoked=True, reason=reason, series=known.series + 1)
        tokens = {key: one for key, one in self.tokens.items() if one.subject != known.subject}
        return replace(self.with_identity(gone), tokens=tokens)

    def reinstated(self, subject: str) -> IdentityBook:
        """The identity may join again; its earlier certificates stay refused by their series."""
        return self.with_identity(replace(self.identities[subject], revoked=False, reason=""))


def covers(patterns: Iterable[str], name: str) -> bool:
    """Whether a name is one of the names or in one of the ranges (`node-[1-64]`; `n[001-100]` wants three digits)."""
    return any(pattern == name or ("[" in pattern and _in_range(pattern, name)) for pattern in patterns)


def _in_range(pattern: str, name: str) -> bool:
    found = _RANGE.fullmatch(pattern)
    if found is None:
        return False
    head, tail, low, high = found["head"], found["tail"], found["low"], found["high"]
    if not name.startswith(head) or not name.endswith(tail) or len(name) <= len(head) + len(tail):
        return False
    number = name[len(head) : len(name) - len(tail)]
    if not (number.isascii() and number.isdigit()) or len(number) > 9:
        return False
    padded = low.startswith("0") and len(low) > 1
    written = len(number) == len(low) if padded else number == str(int(number))
    return written and int(low) <= int(number) <= int(high)


def pattern_problem(pattern: str) -> str:
    """What is wrong with a name or range; "" when nothing is."""
    if NAME.fullmatch(pattern):
        return ""
    found = _RANGE.fullmatch(pattern)
    if found is None:
        return "is neither a node name nor a range such as node-[1-64]"
    return "" if int(found["low"]) <= int(found["high"]) else "begins above its end"
