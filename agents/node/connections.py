"""Which rank hosts and rank processes are connected now."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from enum import Enum
from typing import Protocol

from phalanx.v1 import local_pb2


class Role(Enum):
    """Who speaks on a connection."""

    HOST = "host"
    RANK = "rank"


class Connection(Protocol):
    """One accepted connection of the Unix socket."""

    host_id: str
    role: Role | None
    peer_pid: int

    @property
    def closed(self) -> asyncio.Event:
        """Set when everything that the peer wrote was handled and the connection is gone."""

    def send(self, instruction: local_pb2.LocalInstruction) -> None:
        """Write without waiting; a peer that does not read is cut off."""

    def close(self) -> None:
        """End the connection."""


class Connections:
    """The newest connection of each (host, role)."""

    def __init__(self) -> None:
        self._current: dict[tuple[str, Role], Connection] = {}

    def enter(self, connection: Connection, host_id: str, role: Role) -> None:
        """A registered connection replaces the former one of the same process."""
        former = self._current.get((host_id, role))
        connection.host_id, connection.role = host_id, role
        self._current[host_id, role] = connection
        if former is not None and former is not connection:
            former.close()

    def leave(self, connection: Connection) -> bool:
        """Whether the connection was the current one of its process, which is now silent."""
        if connection.role is None or self._current.get((connection.host_id, connection.role)) is not connection:
            return False
        del self._current[connection.host_id, connection.role]
        return True

    def get(self, host_id: str, role: Role) -> Connection | None:
        """The current connection, if any."""
        return self._current.get((host_id, role))

    def silent(self, host_id: str) -> bool:
        """Whether neither the host nor its rank process is connected."""
        return (host_id, Role.HOST) not in self._current and (host_id, Role.RANK) not in self._current

    async def drained(self, host_id: str, limit_s: float) -> None:
        """Wait until what a dead rank host wrote before its end was handled, at most `limit_s`."""
        connection = self._current.get((host_id, Role.HOST))
        if connection is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(connection.closed.wait(), limit_s)

    def close(self, host_id: str) -> None:
        """End both connections of a host that is gone."""
        for role in Role:
            connection = self._current.get((host_id, role))
            if connection is not None:
                connection.close()
