"""Identities: join tokens for agents, certificates for operators, revocation, and who one is."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from cli import render
from cli.client import CALL_TIMEOUT_S, new_request_id
from cli.confirm import Yes, agreed
from cli.credentials import AUTHORITY, CERTIFICATE, KEY, make_request, write_private
from cli.errors import CliError, Exit
from cli.grammar import Argument, Group, Option
from cli.kinds import listing
from cli.listing import Selection, show
from cli.options import Output, OutputForm, SiteChoice, for_site
from cli.supervisor.enrolment import kind_number, write_join_file
from cli.wire import enum_word

DAY_MS = 86_400_000


class Kind(StrEnum):
    """Agents that join with a token."""

    NODE = "node"
    CELL = "cell"
    RELAY = "relay"


class RoleName(StrEnum):
    """What an operator may do; each includes the ones before."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


Subject = Annotated[str, Argument(metavar="KIND/NAME", help="For example node/node-3, or the identity's URI.")]


def register(app: Group) -> None:
    """Adds the groups."""
    tokens = Group("One-use tokens with which agents join.")
    app.add_group(tokens, name="token")
    tokens.command(epilog="Example: phalanx token create node node-7 --output join.json")(create)
    group = Group("Who may speak to the site, and as whom.")
    app.add_group(group, name="identity")
    group.command(epilog="Example: phalanx identity ls")(ls)
    group.command(epilog="Example: phalanx identity whoami")(whoami)
    group.command(epilog="Example: phalanx identity request --output ~/.phalanx/site > ada.csr")(request)
    group.command(epilog="Example: phalanx identity issue ada --role operator --request ada.csr --output ada")(issue)
    group.command(epilog="Example: phalanx identity revoke node/node-3 --reason 'disk was sold' --yes")(revoke)
    group.command(epilog="Example: phalanx identity reinstate node/node-3")(reinstate)


@for_site
def create(
    kind: Annotated[Kind, Argument(metavar="KIND", help="node, cell or relay.")],
    name: Annotated[str, Argument(metavar="NAME", help="The agent's name.")],
    *,
    output: Annotated[Path, Option("--output", "-o", metavar="FILE", help="Where to write the join file (0600).")],
    speaks_for: Annotated[
        list[str] | None,
        Option("--speaks-for", metavar="NODES", help="Of a cell or relay: a node or node-[1-64]; repeatable."),
    ] = None,
    minutes: Annotated[int, Option(min=1, max=1440, help="How long the token can be used.")] = 10,
    site: SiteChoice,
) -> None:
    """Make a join file: bring it to the agent's machine, the agent deletes it once it has its certificate."""
    from phalanx.v1 import identity_pb2  # noqa: PLC0415

    with site.connect() as client:
        wanted = identity_pb2.CreateJoinTokenRequest(
            request_id=new_request_id(),
            kind=kind_number(kind.value),
            name=name,
            speaks_for=speaks_for or (),
            ttl_ms=minutes * 60_000,
        )
        answer = client.identities.CreateJoinToken(wanted, timeout=CALL_TIMEOUT_S)
    write_join_file(output, kind.value, name, answer, client.address)
    render.note(f"join file for {kind.value} {name} in {output}: a secret, for one use, until {answer.expires_at}")


@for_site
def ls(*, output: OutputForm = Output.TABLE, site: SiteChoice) -> None:
    """List identities that have had a certificate: the same as `get identities`."""
    with site.connect() as client:
        found = listing(client, "identities", full=True)
        show(found, found.select(Selection()), output)


@for_site
def whoami(*, output: OutputForm = Output.TABLE, site: SiteChoice) -> None:
    """Say who you are to the controller, what you may do and until when."""
    from phalanx.v1 import identity_pb2  # noqa: PLC0415

    with site.connect() as client:
        answer = client.identities.WhoAmI(identity_pb2.WhoAmIRequest(), timeout=CALL_TIMEOUT_S)
    mine = answer.identity
    role = enum_word(identity_pb2.Role, mine.role)
    if output in (Output.JSON, Output.YAML):
        document = {
            "uri": mine.uri, "role": role, "expiresAt": mine.expires_at, "serial": mine.serial, "site": answer.site,
            "plaintext": answer.plaintext,
        }  # fmt: skip
        render.document(document, output.value)
    elif answer.plaintext:
        render.out("local (plaintext): everything is allowed to whoever reaches this port")
    else:
        render.out(f"{mine.uri} ({role.lower()}) until {mine.expires_at}")


@for_site
def issue(
    name: Annotated[str, Argument(metavar="NAME", help="The operator's name.")],
    *,
    role: Annotated[RoleName, Option(help="viewer reads; operator also changes jobs and nodes; admin does all.")],
    output: Annotated[Path, Option("--output", "-o", metavar="FOLDER", help="Where the identity is written.")],
    request_file: Annotated[
        Path | None,
        Option("--request", metavar="FILE", help="Of `phalanx identity request`. Default: make the key here."),
    ] = None,
    days: Annotated[int, Option(min=1, max=365, help="Life of the certificate.")] = 30,
    site: SiteChoice,
) -> None:
    """Issue a certificate for an operator."""
    from phalanx.v1 import identity_pb2  # noqa: PLC0415

    signing_request = make_request(output) if request_file is None else _read(request_file)
    try:
        with site.connect() as client:
            wanted = identity_pb2.IssueOperatorRequest(
                request_id=new_request_id(),
                name=name,
                role=identity_pb2.Role.Value(f"ROLE_{role.value.upper()}"),
                csr_pem=signing_request,
                ttl_ms=days * DAY_MS,
            )
            answer = client.identities.IssueOperator(wanted, timeout=CALL_TIMEOUT_S)
    except CliError:
        if request_file is None:
            (output / KEY).unlink(missing_ok=True)  # made a moment ago, and good for nothing
        raise
    write_private(output / AUTHORITY, answer.ca_pem)
    write_private(output / CERTIFICATE, answer.certificate_pem)
    rest = "" if request_file is None else f"; put both files beside the operator's {KEY}"
    render.note(f"{answer.uri} ({role.value}) until {answer.expires_at} in {output}{rest}")


def request(
    *,
    output: Annotated[Path, Option("--output", "-o", metavar="FOLDER", help="A new folder, for the key.")],
) -> None:
    """Make a key that stays here, and print the signing request that an administrator needs."""
    render.out(make_request(output).decode().rstrip())
    render.note(
        f"key in {output}: have `phalanx identity issue NAME --role ROLE --request FILE` run by an administrator"
    )


@for_site
def revoke(
    subject: Subject,
    *,
    reason: Annotated[str, Option(help="Why; whoever is refused reads it.")],
    yes: Yes = False,
    site: SiteChoice,
) -> None:
    """Refuse an identity from now on: open sessions end at once, tokens for it are withdrawn."""
    from phalanx.v1 import identity_pb2  # noqa: PLC0415

    agreed(
        f"every certificate of {subject} will be refused, its session ends now",
        "ranks on a node run on for the orphan grace: drain it first to move them",
        yes=yes,
    )
    with site.connect() as client:
        wanted = identity_pb2.RevokeIdentityRequest(request_id=new_request_id(), uri=subject, reason=reason)
        answer = client.identities.RevokeIdentity(wanted, timeout=CALL_TIMEOUT_S)
    render.out(f"{subject} revoked at revision {answer.revision}")


@for_site
def reinstate(subject: Subject, *, site: SiteChoice) -> None:
    """Let a revoked identity get certificates again: an agent with a new token, an operator by `identity issue`."""
    from phalanx.v1 import identity_pb2  # noqa: PLC0415

    with site.connect() as client:
        wanted = identity_pb2.ReinstateIdentityRequest(request_id=new_request_id(), uri=subject)
        answer = client.identities.ReinstateIdentity(wanted, timeout=CALL_TIMEOUT_S)
    render.out(f"{subject} reinstated at revision {answer.revision}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CliError(f"cannot read {path}", why=error.strerror or "", code=Exit.USAGE) from None
