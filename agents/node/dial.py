"""Connections to relays and controllers of a site: TLS with the agent's certificate, one address after the other."""

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


RELAY_OPTIONS = (
    # A relay that stands still must not keep its agents: they look every two seconds and are elsewhere soon after.
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
)
RELAY_NAME = "relay.phalanx"
"""The name in every relay's certificate: none can pass for a controller."""


def open_channel(address: str, credentials: Credentials | None, *, relay: bool = False) -> aio.Channel:
    """A channel to one controller or relay; None: plaintext."""
    options = {**dict(CHANNEL_OPTIONS), **(dict(RELAY_OPTIONS) if relay else {})}
    if credentials is None:
        return aio.insecure_channel(address, options=[*options.items()])
    tls = grpc.ssl_channel_credentials(credentials.authority_pem, credentials.key_pem, credentials.certificate_pem)
    options["grpc.ssl_target_name_override"] = RELAY_NAME if relay else SERVER_NAME
    return aio.secure_channel(address, tls, options=[*options.items()])


class Dialer:
    """Opens channels to whom is tried now: the relays one after the other, then the controllers. `membership` None: plaintext."""

    def __init__(self, addresses: tuple[str, ...], membership: Membership | None, relays: tuple[str, ...] = ()) -> None:
        self._addresses = (*relays, *addresses)
        self._relays = len(relays)
        self._at = 0
        self._refused = 0
        self._direct = 0
        self.membership = membership

    @property
    def address(self) -> str:
        """Where the next channel goes."""
        return self._addresses[self._at]

    @property
    def relayed(self) -> bool:
        """Whether that is a relay."""
        return self._at < self._relays

    async def channel(self) -> aio.Channel:
        """A channel with what identity there is now; joins when there is none.

        Raises:
            IdentityError: there is none, and none can be had now.
        """
        credentials = None if self.membership is None else await self.membership.credentials()
        return open_channel(self.address, credentials, relay=self.relayed)

    async def controller_channel(self) -> aio.Channel:
        """A channel past the relays, which serve sessions only; every call tries the next controller.

        Raises:
            IdentityError: there is no identity, and none can be had now.
        """
        credentials = None if self.membership is None else await self.membership.credentials()
        if not self.relayed:
            return open_channel(self.address, credentials)
        controllers = self._addresses[self._relays :]
        self._direct = (self._direct + 1) % len(controllers)
        return open_channel(controllers[self._direct], credentials)

    def welcomed(self) -> None:
        """This address serves: it is tried first again."""
        self._refused = 0

    def lost(self) -> None:
        """A session has ended that was welcome. A relay that let it end is not asked first; after a controller, relays are."""
        if self.relayed:
            self._at += 1
        elif self._relays:
            self._at = 0

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
        if not host or not port.isdecimal():
            raise ValueError(f"{address!r} is not HOST:PORT")
    return addresses


def is_loopback(address: str) -> bool:
    """Whether an address stays on this machine."""
    return address.rpartition(":")[0].strip("[]") in ("127.0.0.1", "::1", "localhost")
