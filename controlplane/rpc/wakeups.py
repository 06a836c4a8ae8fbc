"""An event loop that is woken by grpc without falling behind it.

grpc's polling thread hands each event of its completion queue to the loop through a queue, and writes one byte to a socket
to wake it. The loop's side takes all events that wait and one byte (grpcio 1.85, `aio/completion_queue.pyx.pxi`). Under load
bytes pile up, and with 278 of them unread (the default buffer of a Unix socket) the write blocks: from then on the polling
thread reads one event of all connections together for each round of the loop. A round in which 64 agents are told a
generation takes tens of milliseconds, so beats wait for seconds in the kernel while the loop itself is never late.
"""

from __future__ import annotations

import asyncio
import socket
from array import array
from collections.abc import Callable
from fcntl import ioctl
from functools import partial
from termios import FIONREAD
from typing import Any

WAKES = "_handle_events"
"""The method of grpc's completion queue that the wake-up socket calls."""


class EdgeLoop(asyncio.SelectorEventLoop):
    """The default loop, except that all wake-ups by grpc that wait are taken at once."""

    def add_reader(self, fd: Any, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        """See asyncio.AbstractEventLoop."""
        woken = callback.func if isinstance(callback, partial) else callback
        if isinstance(fd, socket.socket) and getattr(woken, "__name__", "") == WAKES:
            callback = partial(_all_at_once, fd, callback)
        super().add_reader(fd, callback, *args)


def _all_at_once(wake: socket.socket, callback: Callable[..., Any], *args: Any) -> None:
    """Take all bytes but the one that the callback takes itself."""
    waiting = array("i", [0])
    ioctl(wake.fileno(), FIONREAD, waiting)
    if waiting[0] > 1:
        wake.recv(waiting[0] - 1)
    callback(*args)
