"""Who makes a call: set by `guard` from the client certificate, read by services and by `Site.command`."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from controlplane.core.identity import Role

__all__ = ["ANONYMOUS", "CALLER", "LOCAL", "Caller", "Role"]


@dataclass(frozen=True, slots=True)
class Caller:
    """One authenticated peer.

    `uri`: spiffe://<site>/<kind>/<name>; `kind`: node, cell, relay or operator; `speaks_for`: node names or ranges that a
    cell or relay may report on; `peer`: its network address; `serial`: hex serial number of its certificate, which is of
    the identity's `series` and ends at `expires_ns` (Unix; 0: never).
    """

    uri: str
    kind: str
    name: str
    role: Role
    peer: str = ""
    serial: str = ""
    speaks_for: tuple[str, ...] = ()
    series: int = 0
    expires_ns: int = 0

    @property
    def subject(self) -> str:
        """`<kind>/<name>`, by which the core knows the identity."""
        return f"{self.kind}/{self.name}"


LOCAL = Caller("local", "local", "local", Role.ADMIN)
"""Whoever calls over plaintext on loopback, where the site was asked to allow that."""

ANONYMOUS = Caller("anonymous", "anonymous", "anonymous", Role.NONE)
"""Whoever calls the join port: nobody knows it before it shows a token."""

CALLER: ContextVar[Caller] = ContextVar("caller", default=LOCAL)
"""The caller of the call that runs now."""


def own_name() -> str:
    """The caller's name as owner of cordons and pins; without an identity it is `operator`."""
    caller = CALLER.get()
    return "operator" if caller.kind == LOCAL.kind else caller.name
