"""How fast one name's calls are taken, whatever becomes of them: who calls in a loop waits longer each time, refused or not.

A call costs the controller more than a message of a session does, and a refused one as much as any. Only agents have turns: what
they call is known and little, people's tools come and go.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from controlplane.core.draft import Refusal
from controlplane.core.identity import AGENT_KINDS, NODE
from controlplane.rpc.caller import Caller
from controlplane.rpc.errors import RequestRefused
from controlplane.rpc.pace import MANY, MAX_NAMES, Pace

CALL_BURST, CALLS_PER_S = 200.0, 20.0
"""An operator who reads the logs of all ranks of a node makes it open 64 calls at once, and may do so again."""
MAX_WAITING = 1_280
"""Calls of one name that wait for their turn; one waits for `CALL_BURST` / `CALLS_PER_S` seconds at most."""


class Turns:
    """The calls of all names that were seen. One event loop only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: OrderedDict[str, Pace] = OrderedDict()
        self._waiting: dict[str, int] = {}

    def wait_s(self, caller: Caller) -> float:
        """A call begins: how long it has to wait, seconds."""
        if caller.kind not in AGENT_KINDS:
            return 0.0
        pace = self._known.get(caller.subject)
        if pace is None:
            if len(self._known) >= MAX_NAMES:
                self._known.popitem(last=False)
            many = 1 if caller.kind == NODE else MANY
            pace = self._known[caller.subject] = Pace(many * CALLS_PER_S, many * CALL_BURST, self._clock)
        self._known.move_to_end(caller.subject)
        return 0.0 if pace.charge() else pace.debt_s()

    async def wait(self, caller: Caller) -> None:
        """Wait for the caller's turn.

        Raises:
            RequestRefused: so many calls of this name wait that this one is told at once.
        """
        rest_s = self.wait_s(caller)
        if not rest_s:
            return
        subject = caller.subject
        waiting = self._waiting.get(subject, 0)
        if waiting >= MAX_WAITING:
            text = f"{waiting} calls of {caller.uri} wait for their turn: make fewer"
            raise RequestRefused(Refusal("exhausted", "TOO_MANY_STREAMS", text))
        self._waiting[subject] = waiting + 1
        try:
            await asyncio.sleep(rest_s)
        finally:
            left = self._waiting[subject] - 1
            if left:
                self._waiting[subject] = left
            else:
                del self._waiting[subject]
