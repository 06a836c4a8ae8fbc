"""The audit chain: what one record says, and the digest that ties it to the one before. The only definition of both.

Whoever holds the records can check them: `digest` of every record but the first link's predecessor is a function of its own
fields, and `previous` is the digest of the record before. The controller writes them, the CLI verifies them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

GENESIS = "0" * 64
"""`previous` of record 1."""


@dataclass(frozen=True, slots=True)
class By:
    """Who gave a command: identity URI, role name, network address."""

    actor: str
    role: str
    peer: str = ""


LOCAL = By("local", "ADMIN")
"""Somebody on the controller's own machine, where the site was asked to allow that without an identity."""


@dataclass(frozen=True, slots=True)
class Head:
    """Number and digest of the newest record; number 0: there is none."""

    number: int = 0
    digest: str = GENESIS


@dataclass(frozen=True, slots=True)
class Change:
    """What a command changes. `subject` is `<kind>/<name>`; `before` and `after` are the few facts that it changes, as values
    that JSON knows."""

    subject: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One link. `before` and `after` are canonical JSON text; `at_ns` is Unix nanoseconds."""

    number: int
    at_ns: int
    actor: str
    role: str
    peer: str
    action: str
    subject: str
    before: str
    after: str
    request_id: str
    previous: str
    digest: str


def canonical(value: Any) -> str:
    """JSON text with sorted keys, no spaces and ASCII only: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(link: AuditEntry) -> str:
    """SHA-256, hex, over the canonical JSON of all fields of a link but `digest` itself."""
    body = {
        "number": link.number, "at_ns": link.at_ns, "actor": link.actor, "role": link.role, "peer": link.peer,
        "action": link.action, "subject": link.subject, "before": link.before, "after": link.after,
        "request_id": link.request_id, "previous": link.previous,
    }  # fmt: skip
    return hashlib.sha256(canonical(body).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Broken:
    """Where a chain breaks: the first number that is wrong, and in what."""

    number: int
    reason: str


def verify(links: Iterable[AuditEntry], before: Head | None = None, head: Head | None = None) -> Broken | None:
    """The first break of a chain, None when it holds.

    Args:
        links: consecutive records, oldest first.
        before: the record that must come before the first one; None: the first one's own `previous` is believed, which is
            right for the oldest record that retention has left.
        head: what the newest record must be; None: wherever the links end is right.
    """
    last = before
    for link in links:
        if last is not None and link.number != last.number + 1:
            return Broken(last.number + 1, f"record {last.number + 1} is missing: the next one is {link.number}")
        if last is not None and link.previous != last.digest:
            return Broken(link.number, f"record {link.number} does not follow from record {last.number}")
        if link.number == 1 and link.previous != GENESIS:
            return Broken(1, "record 1 claims to have a predecessor")
        if digest(link) != link.digest:
            return Broken(link.number, f"record {link.number} was changed: its digest does not fit its fields")
        last = Head(link.number, link.digest)
    if head is not None and last != head and (last is not None or head.number):
        found = last.number if last else 0
        return Broken(found + 1, f"the chain ends at record {found}, the controller says {head.number}")
    return None
