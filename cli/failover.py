"""One channel over several controllers: the leader is found by asking, and asked again when it moves.

A call goes on to the next address when the connection fails or the controller says NOT_LEADER. Repeating it is safe: reads
change nothing, and everything that changes something carries a request id, which gets its first answer again. A stream is
taken elsewhere only before its first message; after that its reader decides (`following.py`). Uploads are never repeated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

LIMIT_S = 15.0
"""How long a leader is looked for: a take-over needs up to 10 s."""
CONNECT_LIMIT_S = 2.0
"""A controller that is frozen accepts connections and says nothing."""
FIRST_PAUSE_S, LAST_PAUSE_S = 0.2, 1.0
ELSEWHERE = ("", "NOT_LEADER")
"""Reasons of UNAVAILABLE that another controller may not have: none at all is a broken connection."""
REASON_KEY = "phalanx-reason"

Behaviour = Callable[[grpc.Channel, float | None], Any]


class FailoverChannel(grpc.Channel):
    """A channel that tries addresses in turn."""

    def __init__(self, addresses: tuple[str, ...], make: Callable[[str], grpc.Channel]) -> None:
        self._channels = [make(address) for address in addresses]
        self._seen: set[int] = set()
        self._at = 0

    def attempt(self, behaviour: Behaviour, timeout: float | None) -> Any:
        """The first success of `behaviour` on any channel.

        Raises:
            grpc.RpcError: no controller serves within the limit, or the leader refuses.
        """
        began, pause_s, failed = time.monotonic(), FIRST_PAUSE_S, 0
        limit_s = LIMIT_S if timeout is None else min(timeout, LIMIT_S)
        while True:
            left_s = None if timeout is None else max(0.1, began + timeout - time.monotonic())
            try:
                self._connect(left_s)
                return behaviour(self._channels[self._at], left_s)
            except grpc.RpcError as error:
                if _elsewhere(error) or _silent(error):
                    # Also when no time is left: the next call must not begin at the same dead or frozen controller.
                    failed += 1
                    self._seen.discard(self._at)
                    self._at = (self._at + 1) % len(self._channels)
                if not _elsewhere(error) or time.monotonic() - began > limit_s:
                    raise
                if failed % len(self._channels) == 0:
                    time.sleep(pause_s)
                    pause_s = min(LAST_PAUSE_S, pause_s * 2)

    def _connect(self, left_s: float | None) -> None:
        """Do not spend a whole time-out on a controller that does not even greet."""
        if self._at in self._seen:
            return
        limit_s = CONNECT_LIMIT_S if left_s is None else min(CONNECT_LIMIT_S, left_s)
        try:
            grpc.channel_ready_future(self._channels[self._at]).result(timeout=limit_s)
        except grpc.FutureTimeoutError:
            raise NotConnected from None
        self._seen.add(self._at)

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See grpc.Channel."""

        def call(request: Any, timeout: float | None = None, **options: Any) -> Any:
            def once(channel: grpc.Channel, left_s: float | None) -> Any:
                return channel.unary_unary(method, *args, **kwargs)(request, timeout=left_s, **options)

            return self.attempt(once, timeout)

        return call

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See grpc.Channel."""

        def call(request: Any, timeout: float | None = None, **options: Any) -> Any:
            def begin(channel: grpc.Channel, left_s: float | None) -> Any:
                return channel.unary_stream(method, *args, **kwargs)(request, timeout=left_s, **options)

            return _Stream(self, begin, timeout)

        return call

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See grpc.Channel; sent once, to the controller that served last."""
        return self._channels[self._at].stream_unary(method, *args, **kwargs)

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """See grpc.Channel; sent once, to the controller that served last."""
        return self._channels[self._at].stream_stream(method, *args, **kwargs)

    def subscribe(self, callback: Any, try_to_connect: bool = False) -> None:
        """See grpc.Channel: states of the channel in use."""
        self._channels[self._at].subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Any) -> None:
        """See grpc.Channel."""
        for channel in self._channels:
            channel.unsubscribe(callback)

    def close(self) -> None:
        """See grpc.Channel."""
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> FailoverChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class NotConnected(grpc.RpcError):
    """A controller accepted the connection, or not even that, and did not greet."""

    def code(self) -> grpc.StatusCode:
        """See grpc.Call."""
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        """See grpc.Call."""
        return f"no connection within {CONNECT_LIMIT_S:g} s"

    def trailing_metadata(self) -> tuple[()]:
        """See grpc.Call."""
        return ()


_END = object()


class _Stream:
    """A stream that settles on a controller with its first message."""

    def __init__(self, channel: FailoverChannel, begin: Behaviour, timeout: float | None) -> None:
        self._channel = channel
        self._begin = begin
        self._timeout = timeout
        self._call: Any = None
        self._settled = False
        self._cancelled = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._settled:
            return next(self._call)
        first = self._channel.attempt(self._first, self._timeout)
        self._settled = True
        if first is _END:
            raise StopIteration
        return first

    def _first(self, channel: grpc.Channel, left_s: float | None) -> Any:
        self._call = self._begin(channel, left_s)
        if self._cancelled:
            self._call.cancel()
        return next(self._call, _END)

    def cancel(self) -> bool:
        """End the stream; from any thread."""
        self._cancelled = True
        return bool(self._call.cancel()) if self._call is not None else True


def _elsewhere(error: Any) -> bool:
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        return False
    metadata = dict(error.trailing_metadata() or ())
    return metadata.get(REASON_KEY, "") in ELSEWHERE


def _silent(error: Any) -> bool:
    """Whether nobody answered in time: a controller that is frozen holds its connections."""
    if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
        return False
    return REASON_KEY not in dict(error.trailing_metadata() or ())
