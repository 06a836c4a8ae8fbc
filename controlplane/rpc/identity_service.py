"""IdentityService: tokens and certificates. The core decides and records first; only then is anything signed."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import grpc
from grpc import aio
from phalanx.v1 import identity_pb2 as pb
from phalanx.v1 import identity_pb2_grpc

from controlplane.core import events as ev
from controlplane.core.identity import (
    AGENT_KINDS,
    KINDS,
    MAX_PATTERNS,
    NAME,
    OPERATOR,
    Identity,
    Role,
    pattern_problem,
)
from controlplane.core.spec import Violation
from controlplane.core.units import NS_PER_S
from controlplane.pki.authority import Authority, new_serial
from controlplane.pki.certificates import BadCertificate, Claims, PublicKey, identity_uri, key_digest, read_request
from controlplane.rpc.caller import CALLER, LOCAL, Caller
from controlplane.rpc.codec import check_request
from controlplane.rpc.errors import refuse, refuse_fields
from controlplane.rpc.site import Site

DEFAULT_TOKEN_MS, MAX_TOKEN_MS = 600_000, 86_400_000
MAX_OPERATOR_MS = 365 * 86_400_000
MAX_TOKEN_TEXT = 256

KIND_NAMES = {
    pb.IDENTITY_KIND_NODE: "node",
    pb.IDENTITY_KIND_CELL: "cell",
    pb.IDENTITY_KIND_RELAY: "relay",
    pb.IDENTITY_KIND_OPERATOR: "operator",
}
KIND_NUMBERS = {name: number for number, name in KIND_NAMES.items()}


class IdentityService(identity_pb2_grpc.IdentityServiceServicer):
    """See proto/phalanx/v1/identity.proto. `authority` is None over plaintext, where nobody has an identity."""

    def __init__(self, site: Site, authority: Authority | None) -> None:
        self._site = site
        self._authority = authority

    async def CreateJoinToken(self, request: pb.CreateJoinTokenRequest, context: Any) -> pb.CreateJoinTokenResponse:
        """A one-use secret for one agent."""
        authority, settings = self._need_authority(), self._site.settings
        kind = KIND_NAMES.get(request.kind, "")
        check_request(request.request_id, ("name", request.name))
        refuse_fields(_token_problems(request, kind))
        if not settings.join:
            text = "this controller takes no join tokens: start it with --join HOST:PORT"
            refuse("conflict", "NO_JOIN_PORT", text)
        token = authority.token(f"{request.request_id} {kind}/{request.name}")
        digest = _digest(token)
        ttl_ms = request.ttl_ms or DEFAULT_TOKEN_MS
        event = ev.CreateToken(request.request_id, digest, kind, request.name, tuple(request.speaks_for), ttl_ms)
        answer = (await self._site.command(event)).fields
        return pb.CreateJoinTokenResponse(
            revision=self._site.state.revision,
            token=token,
            join_address=settings.join,
            ca_pem=authority.pem,
            expires_at=rfc3339(int(answer["expires_ns"])),
            site=authority.site,
        )

    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.JoinResponse:
        """Trade a token for a certificate."""
        authority = self._need_authority()
        # Strangers may call this: what is no token costs a look into the published state, and no turn of the brain.
        if len(request.token) > MAX_TOKEN_TEXT or _digest(request.token) not in self._site.state.identity.tokens:
            text = "this join token is unknown here, withdrawn or long expired: `phalanx token create` makes a new one"
            refuse("unauthenticated", "TOKEN_UNKNOWN", text)
        key = _request_key(request.csr_pem)
        ttl_ms = self._site.settings.certificate_ms
        event = ev.Join(_digest(request.token), key_digest(key), new_serial(), ttl_ms)
        claims = _claims(authority, (await self._site.command(event)).fields)
        return pb.JoinResponse(
            certificate_pem=authority.issue(claims, key),
            ca_pem=authority.pem,
            uri=claims.uri,
            expires_at=rfc3339(claims.not_after_ns),
        )

    async def Renew(self, request: pb.RenewRequest, context: Any) -> pb.RenewResponse:
        """The next certificate of the agent that asks."""
        authority, caller = self._need_authority(), CALLER.get()
        key = _request_key(request.csr_pem)
        if caller.kind not in AGENT_KINDS:
            refuse("denied", "ROLE_NEEDED", f"{caller.uri} is no agent: only agents renew")
        ttl_ms = self._site.settings.certificate_ms
        event = ev.Renew(caller.kind, caller.name, caller.series, caller.speaks_for, new_serial(), ttl_ms)
        claims = _claims(authority, (await self._site.command(event)).fields)
        return pb.RenewResponse(
            certificate_pem=authority.issue(claims, key),
            ca_pem=authority.pem,
            expires_at=rfc3339(claims.not_after_ns),
        )

    async def IssueOperator(self, request: pb.IssueOperatorRequest, context: Any) -> pb.IssueOperatorResponse:
        """A certificate for an operator's own key."""
        authority = self._need_authority()
        check_request(request.request_id, ("name", request.name))
        refuse_fields(_operator_problems(request))
        key = _request_key(request.csr_pem)
        ttl_ms = request.ttl_ms or self._site.settings.operator_certificate_ms
        serial = authority.serial(f"{request.request_id} {request.name}")  # a repeat gets the same certificate
        event = ev.IssueOperator(request.request_id, request.name, Role(request.role), key_digest(key), serial, ttl_ms)
        claims = _claims(authority, (await self._site.command(event)).fields)
        return pb.IssueOperatorResponse(
            revision=self._site.state.revision,
            certificate_pem=authority.issue(claims, key),
            ca_pem=authority.pem,
            uri=claims.uri,
            expires_at=rfc3339(claims.not_after_ns),
        )

    async def RevokeIdentity(self, request: pb.RevokeIdentityRequest, context: Any) -> pb.RevokeIdentityResponse:
        """Refuse an identity from now on; its open sessions end with the commit."""
        check_request(request.request_id, ("uri", request.uri))
        kind, name = self._subject(request.uri)
        reason = request.reason[:1_000] or "by an administrator"
        await self._site.command(ev.RevokeIdentity(request.request_id, kind, name, reason))
        return pb.RevokeIdentityResponse(revision=self._site.state.revision)

    async def ReinstateIdentity(
        self, request: pb.ReinstateIdentityRequest, context: Any
    ) -> pb.ReinstateIdentityResponse:
        """Let an identity get certificates again."""
        check_request(request.request_id, ("uri", request.uri))
        kind, name = self._subject(request.uri)
        await self._site.command(ev.ReinstateIdentity(request.request_id, kind, name))
        return pb.ReinstateIdentityResponse(revision=self._site.state.revision)

    async def ListIdentities(self, request: pb.ListIdentitiesRequest, context: Any) -> pb.ListIdentitiesResponse:
        """All identities that ever had a certificate."""
        state = self._site.state
        rows = sorted(state.identity.identities.values(), key=lambda one: (one.kind, one.name))
        return pb.ListIdentitiesResponse(revision=state.revision, identities=[self._message(row) for row in rows])

    async def WhoAmI(self, request: pb.WhoAmIRequest, context: Any) -> pb.WhoAmIResponse:
        """Who the caller is to us."""
        caller, site = CALLER.get(), self._authority.site if self._authority else ""
        return pb.WhoAmIResponse(identity=_own(caller), site=site, plaintext=caller.kind == LOCAL.kind)

    def _need_authority(self) -> Authority:
        if self._authority is None:
            text = "this site runs without TLS (--plaintext): it has no identities, start it with --pki"
            refuse("conflict", "PLAINTEXT", text)
        return self._authority

    def _subject(self, text: str) -> tuple[str, str]:
        """Kind and name of a URI or of `<kind>/<name>`."""
        site = self._authority.site if self._authority else ""
        kind, _, name = text.removeprefix(f"spiffe://{site}/").partition("/")
        if kind not in KINDS or not NAME.fullmatch(name):
            fix = f"use KIND/NAME with one of {', '.join(KINDS)}, or the URI that `phalanx identity ls` shows"
            refuse_fields([Violation("uri", f"{text[:200]!r} is no identity of this site", fix)])
        return kind, name

    def _message(self, identity: Identity) -> pb.Identity:
        site = self._authority.site if self._authority else ""
        return pb.Identity(
            uri=identity_uri(site, identity.kind, identity.name),
            kind=KIND_NUMBERS[identity.kind],
            name=identity.name,
            role=int(identity.role),  # type: ignore[arg-type] # the numbers are equal
            speaks_for=identity.speaks_for,
            issued_at=rfc3339(identity.issued_ns) if identity.issued_ns else "",
            expires_at=rfc3339(identity.expires_ns) if identity.expires_ns else "",
            serial=identity.serial,
            revoked=identity.revoked,
            revoked_reason=identity.reason,
        )


def add_join(service: IdentityService, server: aio.Server) -> None:
    """Serve Join, and nothing else, on a server without client certificates."""
    join = grpc.unary_unary_rpc_method_handler(
        service.Join,
        request_deserializer=pb.JoinRequest.FromString,
        response_serializer=pb.JoinResponse.SerializeToString,
    )
    name = pb.DESCRIPTOR.services_by_name["IdentityService"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Join": join}),))


async def record_outside(site: Site, claims: Claims) -> None:
    """Have a certificate recorded that was made with the authority's key outside of a controller."""
    await site.tell(
        ev.CertificateSeen(
            claims.kind, claims.name, claims.role, claims.speaks_for, claims.series, claims.serial,
            claims.not_before_ns, claims.not_after_ns,
        )
    )  # fmt: skip


def rfc3339(ns: int) -> str:
    """A time for people and scripts, in UTC to the second."""
    return datetime.fromtimestamp(ns // NS_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _request_key(csr_pem: bytes) -> PublicKey:
    try:
        return read_request(csr_pem)
    except BadCertificate as error:
        fix = "send a PKCS#10 request with an elliptic key on P-256, as PEM"
        refuse_fields([Violation("csr_pem", str(error), fix)])
        raise


def _claims(authority: Authority, fields: dict[str, str]) -> Claims:
    return Claims(
        authority.site, fields["kind"], fields["name"], Role(int(fields["role"])), tuple(fields["speaks_for"].split()),
        int(fields["series"]), fields["serial"], int(fields["issued_ns"]), int(fields["expires_ns"]),
    )  # fmt: skip


def _token_problems(request: pb.CreateJoinTokenRequest, kind: str) -> list[Violation]:
    found = []
    if kind not in AGENT_KINDS:
        found.append(Violation("kind", "is no kind of agent", f"use one of {', '.join(AGENT_KINDS)}"))
    if not NAME.fullmatch(request.name):
        found.append(Violation("name", "is no name of an agent", "use letters, digits, `.`, `_` and `-`"))
    if request.ttl_ms > MAX_TOKEN_MS:
        found.append(Violation("ttl_ms", f"{request.ttl_ms} is more than a day", f"use at most {MAX_TOKEN_MS}"))
    if len(request.speaks_for) > MAX_PATTERNS:
        found.append(Violation("speaks_for", f"has {len(request.speaks_for)} entries", f"use at most {MAX_PATTERNS}"))
    if kind == "node" and request.speaks_for:
        found.append(Violation("speaks_for", "has no meaning for a node", "a node speaks for itself only"))
    for number, pattern in enumerate(request.speaks_for[:MAX_PATTERNS]):
        problem = pattern_problem(pattern)
        if problem:
            found.append(Violation(f"speaks_for[{number}]", problem, "name nodes one by one or as node-[1-64]"))
    return found


def _operator_problems(request: pb.IssueOperatorRequest) -> list[Violation]:
    found = []
    if not NAME.fullmatch(request.name):
        found.append(Violation("name", "is no name of an operator", "use letters, digits, `.`, `_` and `-`"))
    if request.role not in (pb.ROLE_VIEWER, pb.ROLE_OPERATOR, pb.ROLE_ADMIN):
        found.append(Violation("role", "is no role", "use viewer, operator or admin"))
    if request.ttl_ms > MAX_OPERATOR_MS:
        found.append(Violation("ttl_ms", f"{request.ttl_ms} is more than a year", f"use at most {MAX_OPERATOR_MS}"))
    return found


def _own(caller: Caller) -> pb.Identity:
    return pb.Identity(
        uri=caller.uri,
        kind=KIND_NUMBERS.get(caller.kind, KIND_NUMBERS[OPERATOR]),
        name=caller.name,
        role=int(caller.role),  # type: ignore[arg-type] # the numbers are equal
        speaks_for=caller.speaks_for,
        serial=caller.serial,
        expires_at=rfc3339(caller.expires_ns) if caller.expires_ns else "",
    )
