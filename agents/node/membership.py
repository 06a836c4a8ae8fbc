"""How an agent gets its certificate and keeps it: it joins once with a token, then renews at two thirds of the life.

As in SPIRE, a token is for one use and the key is made by the agent; as with kubelets, renewal is spread by jitter. A join
file that lies there is used before the present certificate: an operator puts it there after a revocation.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from grpc import aio
from phalanx.v1 import identity_pb2, identity_pb2_grpc

from agents.node.identity import (
    SERVER_NAME,
    Credentials,
    IdentityError,
    IdentityFolder,
    JoinFile,
    read_join_file,
    when,
)

JOIN_FILE = "join.json"
"""Name of the join file where none is given: in the folder of the identity."""
RENEW_AT = 2 / 3
JITTER = 0.1
"""Renewal begins between 60 and 73 percent of the life."""
CALL_LIMIT_S = 10.0
JOIN_WAIT_S = 5.0
"""A join file may come a little later than the agent (a supervisor writes it): it is waited for before one is told."""
LOOK_S = 0.05
LONGEST_SLEEP_S = 60.0
"""The wall clock is looked at again after this: it may be set, and machines sleep."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipConfig:
    """Who the agent is and where its identity lies."""

    kind: str
    name: str
    folder: Path
    join_file: Path


class Membership:
    """The identity of one agent. `renewed` is set when a new certificate should be used for the session."""

    def __init__(self, config: MembershipConfig) -> None:
        self._config = config
        self._folder = IdentityFolder(config.folder)
        self._current: Credentials | None = None
        self._told = ""
        self._joining = asyncio.Lock()
        self.renewed = asyncio.Event()

    async def credentials(self) -> Credentials:
        """A certificate that has not expired; joins with the join file where there is one.

        Raises:
            IdentityError: there is none, and the message says how to get one.
        """
        deadline = time.monotonic() + JOIN_WAIT_S
        while True:
            async with self._joining:  # two at once would join twice, and be shown by two certificates
                order = read_join_file(self._config.join_file)
                if order is not None:
                    try:
                        return await self._join(order)
                    except IdentityError as error:
                        # A token that is no good must not shut out an agent with a good certificate.
                        if not self._usable():
                            raise
                        self._tell("join", f"{error}; the present certificate is used")
            if self._usable() and self._current is not None:
                return self._current
            if time.monotonic() >= deadline:
                raise IdentityError(self._missing())
            await asyncio.sleep(LOOK_S)

    def _usable(self) -> bool:
        """Load what is on disk; whether it may be shown to a controller."""
        if self._left_s() <= 0:
            self._current = self._folder.load()
        current = self._current
        if current is None or current.expires_s <= time.time():
            return False
        if not current.uri.endswith(f"/{self._config.kind}/{self._config.name}"):
            text = (
                f"the certificate in {self._config.folder} is of {current.uri}, this agent is "
                f"{self._config.kind} {self._config.name}: give it its own folder, or join again"
            )
            raise IdentityError(text)
        return True

    def _missing(self) -> str:
        config = self._config
        way = f"`phalanx token create {config.kind} {config.name} -o FILE`, then put FILE at {config.join_file}"
        if self._current is not None:
            return f"the certificate of {self._current.uri} expired at {when(self._current.expires_s)}: {way}"
        return f"{config.kind} {config.name} has no identity in {config.folder}: {way}"

    async def _join(self, order: JoinFile) -> Credentials:
        config = self._config
        if (order.kind, order.name) != (config.kind, config.name):
            text = f"{config.join_file} is for {order.kind} {order.name}, this agent is {config.kind} {config.name}"
            raise IdentityError(text)
        request = identity_pb2.JoinRequest(token=order.token, csr_pem=self._folder.signing_request())
        reason = "no address"
        for address in order.join_address.split(","):
            tls = grpc.ssl_channel_credentials(order.authority_pem)
            options = (("grpc.ssl_target_name_override", SERVER_NAME), ("grpc.enable_http_proxy", 0))
            async with aio.secure_channel(address.strip(), tls, options=options) as channel:
                stub = identity_pb2_grpc.IdentityServiceStub(channel)
                try:
                    answer = await stub.Join(request, timeout=CALL_LIMIT_S)
                except aio.AioRpcError as error:
                    reason = f"{address} refused it: {error.code().name}: {error.details()}"
                    continue
            self._current = self._folder.store(answer.certificate_pem, answer.ca_pem)
            config.join_file.unlink(missing_ok=True)
            log.info("identity.joined", uri=self._current.uri, expires_at=when(self._current.expires_s))
            return self._current
        raise IdentityError(f"the token in {config.join_file} got no certificate: {reason}")

    async def keep_fresh(self, dial: Callable[[], Awaitable[aio.Channel]]) -> None:
        """Renew in time, until cancelled. `dial` opens a channel with the present certificate."""
        while True:
            await self._until_due()
            delay_s = 0.0
            while not await self._renew(dial):
                left_s = self._left_s()
                if left_s <= 0:
                    break  # nothing can be renewed any more: `credentials` says what to do
                delay_s = min(LONGEST_SLEEP_S, max(0.2, delay_s * 2, left_s / 20))
                await asyncio.sleep(random.uniform(0.5, 1.0) * delay_s)

    def _left_s(self) -> float:
        return 0.0 if self._current is None else self._current.expires_s - time.time()

    async def _until_due(self) -> None:
        """Sleep until the present certificate should be renewed; one that comes from elsewhere starts anew."""
        at, due_s = None, 0.0
        while True:
            if self._current is None or self._left_s() <= 0:
                await asyncio.sleep(1.0)
                continue
            if self._current is not at:
                at = self._current
                life_s = at.expires_s - at.obtained_s
                due_s = at.obtained_s + life_s * RENEW_AT * random.uniform(1 - JITTER, 1 + JITTER)
            wait_s = due_s - time.time()
            if wait_s <= 0:
                return
            await asyncio.sleep(min(wait_s, LONGEST_SLEEP_S))

    async def _renew(self, dial: Callable[[], Awaitable[aio.Channel]]) -> bool:
        try:
            channel = await dial()
        except IdentityError as error:
            self._tell("renew", str(error))
            return False
        try:
            stub = identity_pb2_grpc.IdentityServiceStub(channel)
            request = identity_pb2.RenewRequest(csr_pem=self._folder.signing_request())
            answer = await stub.Renew(request, timeout=CALL_LIMIT_S)
        except aio.AioRpcError as error:
            self._tell("renew", f"not renewed, {self._left_s():.1f} s left: {error.code().name}: {error.details()}")
            return False
        finally:
            await channel.close()
        self._current = self._folder.store(answer.certificate_pem, answer.ca_pem)
        self._told = ""
        log.info("identity.renewed", uri=self._current.uri, expires_at=when(self._current.expires_s))
        self.renewed.set()
        return True

    def _tell(self, trouble: str, reason: str) -> None:
        """Once per trouble, not once per try."""
        if self._told != trouble:
            self._told = trouble
            log.warning("identity.trouble", reason=reason)
