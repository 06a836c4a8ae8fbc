"""Who may call what: one table of methods, and the identity of a peer as the published state sees it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from grpc import aio

from controlplane.core.identity import CELL, CONTROLLER, NODE, OPERATOR, RELAY, Role, covers
from controlplane.core.state import State
from controlplane.pki.certificates import BadCertificate, Claims, read_certificate
from controlplane.rpc.caller import ANONYMOUS, LOCAL, Caller
from controlplane.rpc.errors import refuse

if TYPE_CHECKING:
    Context = aio.ServicerContext[Any, Any]

PEM_KEY = "x509_pem_cert"


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call a method: operators of at least `role` (None: no operator), agents of `kinds`, or anybody at all."""

    role: Role | None = None
    kinds: frozenset[str] = frozenset()
    anybody: bool = False


VIEW, OPERATE, ADMINISTER = Rule(Role.VIEWER), Rule(Role.OPERATOR), Rule(Role.ADMIN)

METHODS: Mapping[str, Rule] = {
    "AgentService/Session": Rule(kinds=frozenset({NODE})),
    "AgentService/PushLog": Rule(kinds=frozenset({NODE, RELAY})),
    "CellService/Session": Rule(kinds=frozenset({CELL})),
    "RelayService/Session": Rule(kinds=frozenset({RELAY})),
    "IdentityService/Join": Rule(anybody=True),
    "IdentityService/Renew": Rule(kinds=frozenset({NODE, CELL, RELAY})),
    "IdentityService/WhoAmI": Rule(Role.NONE, frozenset({NODE, CELL, RELAY})),
    "IdentityService/ListIdentities": VIEW,
    "IdentityService/CreateJoinToken": ADMINISTER,
    "IdentityService/IssueOperator": ADMINISTER,
    "IdentityService/RevokeIdentity": ADMINISTER,
    "IdentityService/ReinstateIdentity": ADMINISTER,
    "FleetService/GetSite": VIEW,
    "FleetService/ListNodes": VIEW,
    "FleetService/GetNode": VIEW,
    "FleetService/CordonNode": OPERATE,
    "FleetService/UncordonNode": OPERATE,
    "FleetService/DrainNode": OPERATE,
    "FleetService/RetireNode": ADMINISTER,
    "FleetService/InjectAcceleratorFault": OPERATE,
    "FleetService/ListOffenders": VIEW,
    "FleetService/ListFaults": VIEW,
    "FleetService/ListFaultRules": VIEW,
    "FleetService/GetHealth": VIEW,
    "JobService/ListJobs": VIEW,
    "JobService/GetJob": VIEW,
    "JobService/WatchJob": VIEW,
    "JobService/ReadLogs": VIEW,
    "JobService/SubmitJob": OPERATE,
    "JobService/CancelJob": OPERATE,
    "JobService/RestartJob": OPERATE,
    "CheckpointService/ListCheckpoints": VIEW,
    "CheckpointService/VerifyCheckpoint": OPERATE,
    "CheckpointService/PinCheckpoint": OPERATE,
    "CheckpointService/UnpinCheckpoint": OPERATE,
    "CheckpointService/PoisonCheckpoint": OPERATE,
    "CheckpointService/ClearCheckpoints": OPERATE,
    "EventService/ListEvents": VIEW,
    "EventService/WatchEvents": VIEW,
    "EventService/Explain": VIEW,
    "EventService/ReadHistory": VIEW,
    "CodeService/FindCode": VIEW,
    "CodeService/UploadCode": OPERATE,
    "AuditService/ListAudit": VIEW,
    "AdminService/GetStorage": VIEW,
    "AdminService/Compact": ADMINISTER,
    "AdminService/Backup": ADMINISTER,
    "AdminService/ExportState": VIEW,
    "AdminService/GetPolicy": VIEW,
}
"""Every method of `phalanx.v1`. One that is missing here is refused to everybody."""


class Access:
    """Knows peers by their certificates. Until it is attached to a state nobody is known to be revoked."""

    def __init__(self, site: str) -> None:
        """`site`: the name in certificates; "" for plaintext, where everybody is LOCAL."""
        self.site = site
        self._state: Callable[[], State] = State
        self._clock: Callable[[], int] = time.time_ns
        self._unrecorded: Callable[[Claims], None] = lambda claims: None

    def attach(
        self, state: Callable[[], State], clock: Callable[[], int], unrecorded: Callable[[Claims], None]
    ) -> None:
        """Where the published state and the time come from, and who hears of certificates that the state lacks."""
        self._state, self._clock, self._unrecorded = state, clock, unrecorded

    def now_ns(self) -> int:
        """The time by which certificates are judged, Unix nanoseconds."""
        return self._clock()

    def caller(self, context: Context, peer: str, named: Callable[[Caller], None]) -> Caller:
        """Who calls, from the network address `peer`. `named` hears of it before it is judged.

        Raises:
            RequestRefused: the certificate is not one of this site's, has expired, or its identity is revoked.
        """
        if not self.site:
            named(local := replace(LOCAL, peer=peer))
            return local
        named(stranger := replace(ANONYMOUS, peer=peer))
        shown = list(context.auth_context().get(PEM_KEY, ()))
        return self.holder(shown[0], peer, named) if shown else stranger

    def holder(
        self, certificate_pem: bytes, peer: str, named: Callable[[Caller], None] = lambda caller: None
    ) -> Caller:
        """Whom a certificate names that its holder has proven to be his: to us, or to a relay that we trust with his name.

        Raises:
            RequestRefused: it is not one of this site's, has expired, or its identity is revoked.
        """
        try:
            claims = read_certificate(certificate_pem)
        except BadCertificate as error:
            refuse("unauthenticated", "NOT_AUTHENTICATED", str(error))
        if claims.site != self.site or claims.kind == CONTROLLER:
            refuse("unauthenticated", "NOT_AUTHENTICATED", f"{claims.uri} is no client of site {self.site}")
        caller = Caller(
            claims.uri, claims.kind, claims.name, claims.role, peer, claims.serial, claims.speaks_for, claims.series,
            claims.not_after_ns,
        )  # fmt: skip
        named(caller)
        self._check_current(caller)
        if claims.kind == OPERATOR and caller.subject not in self._state().identity.identities:
            self._unrecorded(claims)
        return caller

    def _check_current(self, caller: Caller) -> None:
        known = self._state().identity.identities.get(caller.subject)
        if known is not None and known.revoked:
            refuse("unauthenticated", "REVOKED", f"{caller.uri} is revoked: {known.reason}")
        if known is not None and known.series != caller.series:
            text = f"this certificate of {caller.uri} is from before a revocation: get a new one"
            refuse("unauthenticated", "REVOKED", text)
        if caller.expires_ns <= self._clock():
            refuse("unauthenticated", "EXPIRED", f"the certificate of {caller.uri} has expired: get a new one")


def check(method: str, caller: Caller) -> None:
    """Refuse a call that its caller may not make.

    Raises:
        RequestRefused: not allowed, with what would be needed.
    """
    rule = METHODS.get(method)
    if rule is None:
        refuse("denied", "ROLE_NEEDED", f"{method} is in no rule of access: nobody may call it")
    if rule.anybody or caller.kind == LOCAL.kind:
        return
    if caller.kind == ANONYMOUS.kind:
        text = f"{method} wants a client certificate: without one only a join token is taken"
        refuse("unauthenticated", "NOT_AUTHENTICATED", text)
    if caller.kind == OPERATOR:
        if rule.role is None:
            refuse("denied", "ROLE_NEEDED", f"{method} is for agents: {caller.uri} is an operator")
        if caller.role < rule.role:
            text = f"{method} needs the role {rule.role.name.lower()}: {caller.uri} is {caller.role.name.lower()}"
            refuse("denied", "ROLE_NEEDED", f"{text}; ask an administrator for it")
        return
    if caller.kind not in rule.kinds:
        refuse("denied", "ROLE_NEEDED", f"{method} is not for a {caller.kind}: {caller.uri} may not call it")


def check_name(caller: Caller, kind: str, name: str) -> None:
    """Refuse an agent that says that it is somebody else.

    Raises:
        RequestRefused: NOT_YOUR_NAME.
    """
    if caller.kind != LOCAL.kind and (caller.kind, caller.name) != (kind, name):
        text = f"{caller.uri} says that it is {kind} {name!r}: an agent speaks of itself only"
        refuse("denied", "NOT_YOUR_NAME", text)


def check_speaks_for(caller: Caller, name: str) -> None:
    """Refuse who says something for a node: neither the node itself nor a relay whose certificate lists it.

    Raises:
        RequestRefused: NOT_YOUR_NAME.
    """
    if caller.kind != RELAY:
        check_name(caller, NODE, name)
    elif not covers(caller.speaks_for, name):
        text = (
            f"{caller.uri} speaks for {', '.join(caller.speaks_for[:5]) or 'none'} and not for {name!r}: make the relay a "
            "token with `--speaks-for`"
        )
        refuse("denied", "NOT_YOUR_NAME", text)
