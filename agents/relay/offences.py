"""What this relay has refused from agents by itself, or read no faster, until the controller has been told. No I/O."""

from __future__ import annotations

import time
from collections.abc import Callable

from phalanx.v1 import relay_pb2

MAX_ROWS = 64
"""Kept and told at once; what comes beyond is counted under no name."""
MAX_TEXT = 300
EVERY_S = 1.0
"""How often they are told."""


class Offences:
    """By node and reason, with the last text. One that is told is forgotten."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rows: dict[tuple[str, str], relay_pb2.RelayedOffence] = {}
        self._due_s = 0.0

    def note(self, node: str, peer: str, reason: str, message: str) -> None:
        """An agent did something that no well-behaved one does. `node`: "" before it has said who it is."""
        if (node, reason) not in self._rows and len(self._rows) >= MAX_ROWS - 1:
            node, reason, message = "", "MALFORMED_MESSAGE", "more agents than this relay can name"
        row = self._rows.get((node, reason))
        if row is None:
            row = self._rows[node, reason] = relay_pb2.RelayedOffence(node=node[:253], reason=reason)
        row.peer, row.message = peer[:MAX_TEXT], message[:MAX_TEXT]
        row.count += 1

    def take(self) -> relay_pb2.RelayedOffences | None:
        """All that is new; None when nothing is, or the last were told less than a second ago."""
        now_s = self._clock()
        if not self._rows or now_s < self._due_s:
            return None
        self._due_s = now_s + EVERY_S
        told = relay_pb2.RelayedOffences(rows=self._rows.values())
        self._rows.clear()
        return told
