"""Identities of a site on this machine: the authority and its administrator, and join files for agents that have none."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.credentials import AUTHORITY, CERTIFICATE, write_private
from cli.errors import CliError

if TYPE_CHECKING:
    from phalanx.v1 import identity_pb2

    from cli.client import Client

JOIN_FILE = "join.json"
MAKE_LIMIT_S = 60.0
CALL_LIMIT_S = 5.0
LEAST_LIFE_S = 30.0
"""An agent whose certificate ends sooner gets a token: it may not come to renew it."""
SPEAKS_FOR = "node-[1-64]"
"""Nodes that the cell of `up` may report on: as many as `up` can start."""


def make_authority(folder: Path, site: str) -> None:
    """Make the site's authority once, and its administrator when there is none or its certificate ends.

    Raises:
        CliError: it could not be made.
    """
    line = ("--dir", str(folder), "--site", site, "--out", str(folder / "admin"))
    done = subprocess.run(
        (sys.executable, "-P", "-m", "controlplane.pki", "prepare", *line),
        capture_output=True, text=True, timeout=MAKE_LIMIT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        why = done.stderr.strip().removeprefix("controlplane.pki: ")
        raise CliError("the site has no certificate authority", why=why, fix="mend that, or use --plaintext")


def enrol(site: Mapping[str, Any], client: Client, say: Callable[[str], None], only: str = "") -> None:
    """Write a join file for every agent without a good certificate; `only`: for this node.

    gRPC errors are the caller's; an identity that is revoked is said and left alone.
    """
    authority = (Path(site["identity"]).parent / AUTHORITY).read_bytes()
    for node in site["nodes"]:
        if only in ("", node["name"]):
            _enrol_one(_Agent("node", node["name"], Path(node["folder"])), authority, client, say)
    if site["cell_identity"] and not only:
        cell = _Agent("cell", site["cell"], Path(site["cell_identity"]), (SPEAKS_FOR,))
        _enrol_one(cell, authority, client, say)


@dataclass(frozen=True, slots=True)
class _Agent:
    kind: str
    name: str
    folder: Path
    speaks_for: tuple[str, ...] = ()


def _enrol_one(agent: _Agent, authority: bytes, client: Client, say: Callable[[str], None]) -> None:
    import grpc  # noqa: PLC0415
    from phalanx.v1 import identity_pb2  # noqa: PLC0415

    from cli.client import new_request_id, status_of  # noqa: PLC0415

    if _has_certificate(agent.folder, authority):
        return
    request = identity_pb2.CreateJoinTokenRequest(
        request_id=new_request_id(), kind=kind_number(agent.kind), name=agent.name, speaks_for=agent.speaks_for
    )
    try:
        answer = client.identities.CreateJoinToken(request, timeout=CALL_LIMIT_S)
    except grpc.RpcError as error:
        if status_of(error) != "FAILED_PRECONDITION":
            raise
        say(f"  {agent.kind} {agent.name} gets no token: {error.details()}")
        return
    write_join_file(agent.folder / JOIN_FILE, agent.kind, agent.name, answer, client.address)


def kind_number(kind: str) -> identity_pb2.IdentityKind.ValueType:
    """The kind on the wire."""
    from phalanx.v1 import identity_pb2  # noqa: PLC0415

    return identity_pb2.IdentityKind.Value(f"IDENTITY_KIND_{kind.upper()}")


def write_join_file(
    path: Path, kind: str, name: str, answer: identity_pb2.CreateJoinTokenResponse, address: str
) -> None:
    """Write what an agent needs to join: a secret until it is used. `address`: the controllers as we reach them."""
    document = {
        "site": answer.site,
        "address": address,
        "join_address": reachable(answer.join_address, address),
        "ca_pem": answer.ca_pem.decode(),
        "token": answer.token,
        "kind": kind,
        "name": name,
        "expires_at": answer.expires_at,
    }
    write_private(path, json.dumps(document, indent=2).encode())


def reachable(join: str, address: str) -> str:
    """Where agents join: a controller that listens on all its interfaces is meant by the hosts that we reach it by."""
    host, _, port = join.rpartition(":")
    if host.strip("[]") not in ("0.0.0.0", "::"):
        return join
    return ",".join(f"{one.strip().rpartition(':')[0]}:{port}" for one in address.split(","))


def _has_certificate(folder: Path, authority: bytes) -> bool:
    """Whether an agent of this site has its identity there, good for a while."""
    from cryptography import x509  # noqa: PLC0415 - takes its time

    try:
        if (folder / AUTHORITY).read_bytes() != authority:
            return False
        certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes())
    except (OSError, ValueError):
        return False
    return certificate.not_valid_after_utc.timestamp() > time.time() + LEAST_LIFE_S
