"""One relay: its parts put together, its life from start to SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import grpc
import structlog
from grpc import aio

from agents.node.boot import Boot
from agents.node.dial import Dialer
from agents.node.durable import lock_folder
from agents.node.identity import Credentials, IdentityError
from agents.node.membership import Membership
from agents.node.observability import Counters
from agents.node.supervision import tell_supervisor
from agents.relay.config import RelayConfig
from agents.relay.door import Door
from agents.relay.link import RelayLink

OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 16 << 20),  # each message has a lower limit of its own
    ("grpc.max_send_message_length", 64 << 20),
    # What nobody reads stays with its sender: a wider window holds hundreds of thousands of beats.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 64 << 10),
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),  # agents look often whether their relay still lives
)
STOP_S = 1.0
LOOK_S = 10.0
"""A renewed certificate is taken up after this; the former one is good for hours still."""
RETRY_S = 1.0

log = structlog.get_logger(__name__)


class CannotListen(Exception):
    """The port cannot be had; the message says which."""


class Relay:
    """The parts of a relay. Make it on the event loop, then `run` it once."""

    def __init__(self, config: RelayConfig) -> None:
        self._config = config
        self._lock = lock_folder(config.directory)
        self._counters = Counters()
        self._membership = None if config.membership is None else Membership(config.membership)
        self._dialer = Dialer(config.controllers, self._membership)
        self._link = RelayLink(self._dialer, config.relay, Boot(), self._counters)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises what ends one of its parts."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        parts = [asyncio.create_task(self._link.run(), name="session"), asyncio.create_task(self._serve(), name="door")]
        if self._membership is not None:
            parts.append(asyncio.create_task(self._membership.keep_fresh(self._dialer.channel), name="identity"))
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            ends: set[asyncio.Future[Any]] = {stopping, *parts}
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            log.info("relay.stopping", counters=dict(self._counters.values))
            for part in (stopping, *parts):
                part.cancel()
            await asyncio.gather(stopping, *parts, return_exceptions=True)
            os.close(self._lock)

    async def _serve(self) -> None:
        """Listen to agents, with the certificate that there is; a new one needs a new server."""
        while True:
            credentials = await self._credentials()
            server = aio.server(options=OPTIONS)
            server.add_generic_rpc_handlers((Door(self._link, self._counters, trusted=credentials is not None),))
            _bind(server, self._config.listen, credentials)
            await server.start()
            log.info("relay.listening", address=self._config.listen, pid=os.getpid())
            tell_supervisor("READY=1", f"STATUS=relay {self._config.relay} on {self._config.listen}")
            try:
                while self._membership is None or await self._credentials() == credentials:
                    await asyncio.sleep(LOOK_S)
            finally:
                await server.stop(STOP_S)

    async def _credentials(self) -> Credentials | None:
        while self._membership is not None:
            try:
                return await self._membership.credentials()
            except IdentityError as error:
                if self._counters.first("identity", str(error)):
                    log.warning("relay.no_identity", reason=str(error))
                await asyncio.sleep(RETRY_S)
        return None


def _bind(server: aio.Server, address: str, credentials: Credentials | None) -> None:
    try:
        if credentials is None:
            bound = server.add_insecure_port(address)
        else:
            pairs = [(credentials.key_pem, credentials.certificate_pem)]
            tls = grpc.ssl_server_credentials(pairs, credentials.authority_pem, require_client_auth=True)
            bound = server.add_secure_port(address, tls)
    except RuntimeError as error:
        raise CannotListen(f"cannot listen on {address}: is another relay running there?") from error
    if bound == 0:
        raise CannotListen(f"cannot listen on {address}: is another relay running there?")
