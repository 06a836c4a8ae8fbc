"""A relay's link and its door ask for the same identity at the same time."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from grpc import aio
from phalanx.v1 import identity_pb2, identity_pb2_grpc

from agents.node import dial, identity
from agents.node.dial import Dialer
from agents.node.membership import Membership, MembershipConfig
from controlplane.core.identity import Role
from controlplane.pki.authority import Authority, make_authority, new_serial
from controlplane.pki.certificates import RELAY_NAME, Claims, read_request
from controlplane.rpc.server import server_credentials


class Joins(identity_pb2_grpc.IdentityServiceServicer):
    """Takes every token and counts."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.count = 0

    async def Join(self, request: identity_pb2.JoinRequest, context: object) -> identity_pb2.JoinResponse:  # type: ignore[override]
        self.count += 1
        claims = Claims("s", "relay", "r1", Role.NONE, ("n1",), 1, new_serial(), 0, 2**62)
        certificate = self.authority.issue(claims, read_request(request.csr_pem))
        return identity_pb2.JoinResponse(certificate_pem=certificate, ca_pem=self.authority.pem)


def test_an_agent_joins_once_and_not_twice(tmp_path: Path) -> None:
    async def run() -> None:
        authority = make_authority(tmp_path / "pki", "s")
        server, joins = aio.server(), Joins(authority)
        identity_pb2_grpc.add_IdentityServiceServicer_to_server(joins, server)
        tls = server_credentials(authority, authority.serve_as("c"), demand_client=False)
        port = server.add_secure_port("127.0.0.1:0", tls)
        await server.start()
        order = tmp_path / "join.json"
        order.touch(mode=0o600)
        words = {"join_address": f"127.0.0.1:{port}", "ca_pem": authority.pem.decode(), "token": "t"}
        order.write_text(json.dumps(words | {"kind": "relay", "name": "r1"}))
        folder = tmp_path / "relay"
        membership = Membership(MembershipConfig(kind="relay", name="r1", folder=folder, join_file=order))
        one, other = await asyncio.gather(membership.credentials(), membership.credentials())
        assert joins.count == 1
        assert one == other
        await server.stop(None)

    asyncio.run(run())


def test_relays_come_before_controllers_and_a_lost_one_is_passed_by() -> None:
    dialer = Dialer(("c1:1", "c2:1"), None, ("r1:1", "r2:1"))
    assert (dialer.address, dialer.relayed) == ("r1:1", True)
    dialer.welcomed()
    dialer.lost()
    assert (dialer.address, dialer.relayed) == ("r2:1", True)
    assert not dialer.refused()
    assert (dialer.address, dialer.relayed) == ("c1:1", False)
    dialer.welcomed()
    dialer.lost()
    assert dialer.address == "r1:1", "a session with a controller is the last resort"
    assert [dialer.refused() for _ in range(4)] == [False, False, False, True], "once around, then a pause"


def test_a_relays_name_is_not_a_controllers() -> None:
    assert dial.RELAY_NAME == RELAY_NAME
    assert identity.SERVER_NAME != RELAY_NAME
