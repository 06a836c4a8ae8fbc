"""Connections to the controllers of a site: TLS with the agent's certificate, one address after the other."""

from __future__ import annotations

import grpc
from grpc import aio

from agents.node.identity import SERVER_NAME, Credentials
from agents.node.membership import Membership

CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # grpc core waits this long for the answer to a ping, 60 s by default, whatever keepalive_timeout_ms says: measured
    # against a stopped controller, 70 s until the session ended without it.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A channel lives for one session, with a connection of its own; the back-off between sessions is ours.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
)


def open_channel(address: str, credentials: Credentials | None) -> aio.Channel:
    """A channel to one controller; None: plaintext."""
    if credentials is None:
        return aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    tls = grpc.ssl_channel_credentials(credentials.authority_pem, credentials.key_pem, credentials.certificate_pem)
    return aio.secure_channel(address, tls, options=(*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", SERVER_NAME)))


class Dialer:
    """Opens channels to the controller that is tried now. `membership` None: plaintext."""

    def __init__(self, addresses: tuple[str, ...], membership: Membership | None) -> None:
        self._addresses = addresses
        self._at = 0
        self._refused = 0
        self.membership = membership

    @property
    def address(self) -> str:
        """Where the next channel goes."""
        return self._addresses[self._at]

    async def channel(self) -> aio.Channel:
        """A channel with what identity there is now; joins when there is none.

        Raises:
            IdentityError: there is none, and none can be had now.
        """
        credentials = None if self.membership is None else await self.membership.credentials()
        return open_channel(self.address, credentials)

    def welcomed(self) -> None:
        """This address leads: it is tried first again."""
        self._refused = 0

    def refused(self) -> bool:
        """The address did not serve: go on to the next one. Whether all have been tried since one served."""
        self._at = (self._at + 1) % len(self._addresses)
        self._refused += 1
        return self._refused % len(self._addresses) == 0


def split_addresses(text: str) -> tuple[str, ...]:
    """The addresses of `a:1,b:2`.

    Raises:
        ValueError: one is not HOST:PORT.
    """
    addresses = tuple(part.strip() for part in text.split(","))
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"{address!r} is not HOST:PORT")
    return addresses


def is_loopback(address: str) -> bool:
    """Whether an address stays on this machine."""
    return address.rpartition(":")[0].strip("[]") in ("127.0.0.1", "::1", "localhost")
