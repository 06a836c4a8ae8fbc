"""The one thread that talks to Ray: its calls block, some of them for ever, and the event loop must not."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class RayLostError(Exception):
    """A call did not come back in time. The thread is stuck in it: only a new process can go on."""


class RayThread:
    """Runs calls one after another on a daemon thread. The deadline of a call begins when its turn comes."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self.lost: asyncio.Future[RayLostError] = self._loop.create_future()
        threading.Thread(target=self._run, name="ray", daemon=True).start()

    async def call(self, limit_s: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the function on the thread. Raises what it raises, or RayLostError, which also becomes `lost`."""
        async with self._turn:
            if self.lost.done():
                raise self.lost.result()
            done: asyncio.Future[T] = self._loop.create_future()
            self._calls.put((done, lambda: function(*args, **kwargs)))
            try:
                return await asyncio.wait_for(done, limit_s)
            except TimeoutError:
                if not done.cancelled():  # Ray's own timeout error, not ours
                    raise
            name = getattr(function, "__name__", "a call")
            error = RayLostError(f"{name} did not return within {limit_s:g} s")
            self.lost.set_result(error)
            raise error

    def _run(self) -> None:
        while True:
            done, function = self._calls.get()
            try:
                result = function()
            except Exception as error:  # noqa: BLE001  edge of the thread: handed over to the caller, whatever it is
                self._hand_over(done, None, error)
            else:
                self._hand_over(done, result, None)

    def _hand_over(self, done: asyncio.Future[Any], result: object, error: Exception | None) -> None:
        def settle() -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)

        with suppress(RuntimeError):  # the loop has ended: nobody waits any more
            self._loop.call_soon_threadsafe(settle)
