"""Streams by the identity that opened them: a revocation or an expired certificate ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from controlplane.core.draft import Refusal
from controlplane.core.identity import CELL, NODE, OPERATOR, RELAY
from controlplane.core.units import to_s
from controlplane.rpc.caller import Caller
from controlplane.rpc.errors import RequestRefused

EXPIRY_GRACE_S = 5.0
"""A stream may outlive its certificate by this much: the agent's renewal hands over first."""
LONGEST_TIMER_S = 86_400.0
"""The loop's timers are looked at again after a day."""

MOST: Mapping[str, int] = {NODE: 64, CELL: 64, RELAY: 1_024, OPERATOR: 1_024}
"""Streams of one identity at a time: a session, the one that takes over from it, and logs; a relay carries those of 256 nodes."""

End = Callable[[Refusal], None]


class OpenCalls:
    """Who has streams open. One event loop only."""

    def __init__(self) -> None:
        self._ends: dict[str, set[End]] = {}

    @contextmanager
    def hold(self, caller: Caller, end: End, now_ns: Callable[[], int]) -> Iterator[None]:
        """While this lasts, `end` is called when the caller's identity is revoked or its certificate has run out.

        Raises:
            RequestRefused: this identity has as many streams open as any may have.
        """
        ends = self._ends.setdefault(caller.subject, set())
        if len(ends) >= MOST.get(caller.kind, len(ends) + 1):
            text = f"{caller.uri} has {len(ends)} streams open: close some of them"
            raise RequestRefused(Refusal("exhausted", "TOO_MANY_STREAMS", text))
        ends.add(end)
        timer: asyncio.TimerHandle | None = None

        def look() -> None:
            nonlocal timer
            left_s = to_s(caller.expires_ns - now_ns()) + EXPIRY_GRACE_S
            if left_s <= 0:
                text = f"the certificate of {caller.uri} has expired: connect again with a new one"
                end(Refusal("unauthenticated", "EXPIRED", text))
                return
            timer = asyncio.get_running_loop().call_later(min(left_s, LONGEST_TIMER_S), look)

        if caller.expires_ns:
            look()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            ends.discard(end)
            if not ends and self._ends.get(caller.subject) is ends:
                del self._ends[caller.subject]

    def end(self, subject: str, refusal: Refusal) -> None:
        """End all streams of an identity."""
        for end in tuple(self._ends.get(subject, ())):
            end(refusal)
