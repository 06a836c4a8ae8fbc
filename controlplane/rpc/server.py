"""The gRPC server: its limits, its services, reflection and health."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from phalanx.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    agent_pb2,
    agent_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    cell_pb2,
    cell_pb2_grpc,
    checkpoint_pb2,
    checkpoint_pb2_grpc,
    code_pb2,
    code_pb2_grpc,
    event_pb2,
    event_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    job_pb2,
    job_pb2_grpc,
    relay_pb2,
    relay_pb2_grpc,
)

from controlplane.config import Settings
from controlplane.observability import Metrics
from controlplane.pki.authority import Authority, ServerCertificate, load_authority
from controlplane.rpc.access import Access
from controlplane.rpc.admin_service import AdminService, Storage
from controlplane.rpc.agent_service import AgentService
from controlplane.rpc.audit_service import AuditService
from controlplane.rpc.cell_service import CellService
from controlplane.rpc.checkpoint_service import CheckpointService
from controlplane.rpc.code_service import CodeService, CodeStore
from controlplane.rpc.event_service import EventService
from controlplane.rpc.fleet_service import FleetService
from controlplane.rpc.guard import Guard
from controlplane.rpc.history import History
from controlplane.rpc.identity_service import IdentityService, add_join, record_outside
from controlplane.rpc.job_service import JobService
from controlplane.rpc.logs import LogRelays
from controlplane.rpc.open_calls import OpenCalls
from controlplane.rpc.relay_service import RelayService
from controlplane.rpc.router import Router
from controlplane.rpc.sessions import Registry
from controlplane.rpc.site import Site
from controlplane.rpc.standby import Switchboard

PENDING_REQUESTS = 20_000
"""A reconnect storm of a whole site: with the default of 1,000, opening 6,250 streams failed in half of the tries."""
PENDING_S = 120
"""A stream that nobody has taken after 30 s is cancelled by grpc itself. It takes one a turn of the loop, and while thousands of
streams beat a turn is long: a site that comes back would dial again and again."""
HANDSHAKE_MS = 20_000
"""A peer that connects and says nothing holds a descriptor for so long; grpc's own limit is two minutes."""
RECEIVE_WINDOW = 64 << 10
"""What a stream may have on its way to us that nobody has read. Left to itself grpc probes the bandwidth and widens this to
megabytes: hundreds of thousands of beats, all of which its threads take in before a flood feels that it is not read."""
MOST_STREAMS = 1_280
"""Of one connection: a relay's session and a log of each of its nodes' ranks, which open_calls.py counts; beyond it peers wait."""
JOIN_REQUEST_BYTES = 64 << 10
SEND_LIMIT = 64 << 20
"""A job of 50,000 ranks is one message."""


class AddressTaken(Exception):
    """Somebody else listens there; the message says where."""


@dataclass(slots=True)
class Edge:
    """The server and its health."""

    server: aio.Server
    join: aio.Server | None
    board: Switchboard
    join_board: Switchboard
    access: Access
    calls: OpenCalls
    authority: Authority | None
    health: health.aio.HealthServicer
    names: tuple[str, ...]

    async def start(self) -> None:
        """Take calls; they are refused until `open`."""
        await self.server.start()
        if self.join is not None:
            await self.join.start()

    def open(self) -> None:
        """This controller leads: connect the services that were added."""
        self.board.open()
        self.join_board.open()

    async def stop(self, grace_s: float) -> None:
        """End both servers; calls that run have so long."""
        servers = [self.server] if self.join is None else [self.server, self.join]
        await asyncio.gather(*(server.stop(grace_s) for server in servers))

    async def set_serving(self, *, serving: bool) -> None:
        """Say whether we serve, for every service and for the whole."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self.names):
            await self.health.set(name, status)


def options(settings: Settings) -> list[tuple[str, int]]:
    """Options of the server.

    Keepalive goes both ways: our pings find half-open connections; peers may ping, at most every five seconds.
    """
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", SEND_LIMIT),
        ("grpc.max_concurrent_streams", MOST_STREAMS),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", RECEIVE_WINDOW),
        ("grpc.server.max_pending_requests", PENDING_REQUESTS),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_REQUESTS),
        ("grpc.server_max_unrequested_time_in_server", PENDING_S),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ]


def join_options(settings: Settings) -> list[tuple[str, int]]:
    """Options of the join server, to which everybody may connect: small requests, few at a time, and no connection stays."""
    narrow = {
        "grpc.max_receive_message_length": JOIN_REQUEST_BYTES,
        "grpc.max_concurrent_streams": 4,
        "grpc.max_connection_idle_ms": 10_000,
        "grpc.max_connection_age_ms": 30_000,
        "grpc.max_connection_age_grace_ms": 10_000,
    }
    return [*(dict(options(settings)) | narrow).items()]


def bind(settings: Settings, metrics: Metrics, leader: Callable[[], str]) -> Edge:
    """A server that holds its port and does not serve yet. Must run in the event loop.

    `leader`: address of who leads while this controller does not.

    Raises:
        AddressTaken: the port cannot be had.
        AuthorityError: the site's authority cannot be read.
    """
    authority = None if settings.plaintext else load_authority(Path(settings.pki))
    access, calls = Access(authority.site if authority else ""), OpenCalls()

    board, join_board = Switchboard(leader), Switchboard(leader)

    def make(
        address: str,
        credentials: grpc.ServerCredentials | None,
        switchboard: Switchboard,
        limits: list[tuple[str, int]],
    ) -> aio.Server:
        guard = Guard(metrics, settings.request_ms, access, calls)
        made = aio.server(interceptors=[guard], options=limits)
        made.add_generic_rpc_handlers((switchboard,))
        _bind(made, address, credentials)
        return made

    join = None
    if authority is None:
        server = make(settings.listen, None, board, options(settings))
    else:
        certificate = authority.serve_as(_holder_name())
        credentials = server_credentials(authority, certificate, demand_client=True)
        server = make(settings.listen, credentials, board, options(settings))
        if settings.join:
            credentials = server_credentials(authority, certificate, demand_client=False)
            join = make(settings.join, credentials, join_board, join_options(settings))
    names = tuple(
        module.DESCRIPTOR.services_by_name[service].full_name
        for module, service in (
            (agent_pb2, "AgentService"),
            (cell_pb2, "CellService"),
            (relay_pb2, "RelayService"),
            (fleet_pb2, "FleetService"),
            (job_pb2, "JobService"),
            (checkpoint_pb2, "CheckpointService"),
            (event_pb2, "EventService"),
            (code_pb2, "CodeService"),
            (audit_pb2, "AuditService"),
            (admin_pb2, "AdminService"),
            (identity_pb2, "IdentityService"),
        )
    )
    checker = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    shown = (*names, reflection.SERVICE_NAME, health.SERVICE_NAME)
    reflection.enable_server_reflection(shown, server)
    return Edge(server, join, board, join_board, access, calls, authority, checker, names)


def _bind(server: aio.Server, address: str, credentials: grpc.ServerCredentials | None) -> None:
    try:
        bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except RuntimeError as error:
        raise AddressTaken(f"cannot listen on {address}: is another controller running there?") from error
    if bound == 0:
        raise AddressTaken(f"cannot listen on {address}: is another controller running there?")


def _holder_name() -> str:
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in socket.gethostname()).lstrip("._-")
    return name[:200] or "controller"


def server_credentials(
    authority: Authority, certificate: ServerCertificate, *, demand_client: bool
) -> grpc.ServerCredentials:
    """TLS of one port."""
    pairs = [(certificate.key_pem, certificate.certificate_pem)]
    return grpc.ssl_server_credentials(
        pairs, authority.pem if demand_client else None, require_client_auth=demand_client
    )


def serve(edge: Edge, site: Site, storage: Storage) -> Router:
    """Add the services and return the way from the brain to their streams; the edge can be opened after this."""
    edge.access.attach(lambda: site.state, site.now_ns, lambda claims: site.spawn(record_outside(site, claims)))
    agents, cells, relays, logs = Registry(), Registry(), Registry(), LogRelays()
    history = History(site.journal)
    server = cast("aio.Server", edge.board)  # the generated code only adds handlers to it
    nodes = AgentService(site, agents, logs)
    agent_pb2_grpc.add_AgentServiceServicer_to_server(nodes, server)
    cell_pb2_grpc.add_CellServiceServicer_to_server(CellService(site, cells), server)
    relaying = RelayService(site, relays, nodes, edge.access)
    relay_pb2_grpc.add_RelayServiceServicer_to_server(relaying, server)
    fleet_pb2_grpc.add_FleetServiceServicer_to_server(FleetService(site, storage.policy), server)
    checkpoint_pb2_grpc.add_CheckpointServiceServicer_to_server(CheckpointService(site), server)
    event_pb2_grpc.add_EventServiceServicer_to_server(EventService(site, history), server)
    audit_pb2_grpc.add_AuditServiceServicer_to_server(AuditService(site), server)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(AdminService(site, storage), server)
    code = CodeStore(site)
    site.spawn(code.sweep())
    code_pb2_grpc.add_CodeServiceServicer_to_server(CodeService(site, code), server)
    jobs = JobService(site, agents, cells, logs, history, code=code)
    job_pb2_grpc.add_JobServiceServicer_to_server(jobs, server)
    identities = IdentityService(site, edge.authority)
    identity_pb2_grpc.add_IdentityServiceServicer_to_server(identities, server)
    if edge.join is not None:
        add_join(identities, cast("aio.Server", edge.join_board))
    return Router(site, agents, cells, relays, history)
