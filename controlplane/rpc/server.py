"""The gRPC server: its limits, its services, reflection and health."""

from __future__ import annotations

from dataclasses import dataclass

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from phalanx.v1 import (
    agent_pb2,
    agent_pb2_grpc,
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
    job_pb2,
    job_pb2_grpc,
)

from controlplane.config import Settings
from controlplane.observability import Metrics
from controlplane.rpc.agent_service import AgentService
from controlplane.rpc.cell_service import CellService
from controlplane.rpc.checkpoint_service import CheckpointService
from controlplane.rpc.code_service import CodeService, CodeStore
from controlplane.rpc.event_service import EventService
from controlplane.rpc.fleet_service import FleetService
from controlplane.rpc.guard import Guard
from controlplane.rpc.history import History
from controlplane.rpc.job_service import JobService
from controlplane.rpc.logs import LogRelays
from controlplane.rpc.router import Router
from controlplane.rpc.sessions import Registry
from controlplane.rpc.site import Site

PENDING_REQUESTS = 20_000
"""A reconnect storm of a whole site: with the default of 1,000, opening 6,250 streams failed in half of the tries."""
SEND_LIMIT = 64 << 20
"""A job of 50,000 ranks is one message."""


class AddressTaken(Exception):
    """Somebody else listens there; the message says where."""


@dataclass(slots=True)
class Edge:
    """The server and its health."""

    server: aio.Server
    health: health.aio.HealthServicer
    names: tuple[str, ...]

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
        ("grpc.server.max_pending_requests", PENDING_REQUESTS),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_REQUESTS),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ]


def bind(settings: Settings, metrics: Metrics) -> Edge:
    """A server that holds its port and does not serve yet. Must run in the event loop.

    Raises:
        AddressTaken: the port cannot be had.
    """
    server = aio.server(interceptors=[Guard(metrics, settings.request_ms)], options=options(settings))
    try:
        bound = server.add_insecure_port(settings.listen)
    except RuntimeError as error:
        raise AddressTaken(f"cannot listen on {settings.listen}: is another controller running there?") from error
    if bound == 0:
        raise AddressTaken(f"cannot listen on {settings.listen}: is another controller running there?")
    names = tuple(
        module.DESCRIPTOR.services_by_name[service].full_name
        for module, service in (
            (agent_pb2, "AgentService"),
            (cell_pb2, "CellService"),
            (fleet_pb2, "FleetService"),
            (job_pb2, "JobService"),
            (checkpoint_pb2, "CheckpointService"),
            (event_pb2, "EventService"),
            (code_pb2, "CodeService"),
        )
    )
    checker = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checker, server)
    shown = (*names, reflection.SERVICE_NAME, health.SERVICE_NAME)
    reflection.enable_server_reflection(shown, server)
    return Edge(server, checker, names)


def serve(edge: Edge, site: Site) -> Router:
    """Add the services and return the way from the brain to their streams; the server can be started after this."""
    agents, cells, relays = Registry(), Registry(), LogRelays()
    history = History(site.journal)
    server = edge.server
    agent_pb2_grpc.add_AgentServiceServicer_to_server(AgentService(site, agents, relays), server)
    cell_pb2_grpc.add_CellServiceServicer_to_server(CellService(site, cells), server)
    fleet_pb2_grpc.add_FleetServiceServicer_to_server(FleetService(site), server)
    checkpoint_pb2_grpc.add_CheckpointServiceServicer_to_server(CheckpointService(site), server)
    event_pb2_grpc.add_EventServiceServicer_to_server(EventService(site, history), server)
    code = CodeStore(site)
    site.spawn(code.sweep())
    code_pb2_grpc.add_CodeServiceServicer_to_server(CodeService(code), server)
    jobs = JobService(site, agents, cells, relays, history, code=code)
    job_pb2_grpc.add_JobServiceServicer_to_server(jobs, server)
    return Router(site, agents, cells, history)
