"""Who makes a call: set by `guard` from the client certificate, read by services and by `Site.command`."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum


class Role(IntEnum):
    """What an operator may do; each includes the ones below. Agents have none."""

    NONE = 0
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Caller:
    """One authenticated peer.

    `uri`: spiffe://<site>/<kind>/<name>; `kind`: node, cell, relay or operator; `speaks_for`: node names or ranges that a
    cell or relay may report on; `peer`: its network address; `serial`: hex serial number of its certificate.
    """

    uri: str
    kind: str
    name: str
    role: Role
    peer: str = ""
    serial: str = ""
    speaks_for: tuple[str, ...] = ()


LOCAL = Caller("local", "local", "local", Role.ADMIN)
"""Whoever calls over plaintext on loopback, where the site was asked to allow that."""

CALLER: ContextVar[Caller] = ContextVar("caller", default=LOCAL)
"""The caller of the call that runs now."""


def own_name() -> str:
    """The caller's name as owner of cordons and pins; without an identity it is `operator`."""
    caller = CALLER.get()
    return "operator" if caller is LOCAL else caller.name
