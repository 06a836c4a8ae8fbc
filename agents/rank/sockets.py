"""Shutting down the connections of a process group, so that an operation stuck in it ends with an error.

gloo has no abort that frees an operation in flight (measured: floors.md, sections E and H); closing its connections
under it does. A listener must not be touched: that ends the process from inside gloo.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress

Endpoint = tuple[str, int]


def listening_endpoints() -> set[Endpoint]:
    """Address and port of every TCP socket on which this process listens."""
    return {
        _endpoint(connection.getsockname())
        for connection in _tcp_sockets()
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    }


def shut_down_connections(endpoints: frozenset[Endpoint]) -> int:
    """Shut down reading from each connection that has one of `endpoints` at either end; returns how many.

    Reading only: gloo's loop then sees the end of the stream, fails what is pending and closes the connection itself.
    A connection that is shut for writing too lets a send that comes first fail with EPIPE, and gloo (as of 2.13's)
    forgets to wake the waiter of such a send: `Pair::signalException` skips the unbound buffers in its `tx_`.

    The check and the shutdown work on one duplicated descriptor, so that a number reused meanwhile cannot be hit.
    """
    count = 0
    for connection in _tcp_sockets():
        with suppress(OSError):  # not connected, or gone meanwhile
            if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                continue
            ends = {_endpoint(connection.getsockname()), _endpoint(connection.getpeername())}
            if ends & endpoints:
                connection.shutdown(socket.SHUT_RD)
                count += 1
    return count


def _endpoint(name: tuple[str, int] | tuple[str, int, int, int]) -> Endpoint:
    return name[0], name[1]


def _tcp_sockets() -> Iterator[socket.socket]:
    for entry in os.listdir("/proc/self/fd"):
        try:
            copy = os.dup(int(entry))
        except OSError:  # closed since the listing, or the listing's own descriptor
            continue
        if not stat.S_ISSOCK(os.fstat(copy).st_mode):
            os.close(copy)
            continue
        with socket.socket(fileno=copy) as connection:
            if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                yield connection
