"""What relays have refused by themselves, in the table of offenders.

A relay names nodes that it speaks for; of others it only tells, so that nobody can blame a node whose name is not his to speak.
"""

from __future__ import annotations

from phalanx.v1 import relay_pb2

from controlplane.core.identity import covers
from controlplane.observability import Metrics
from controlplane.observability.offenders import OFFENCES
from controlplane.rpc.caller import LOCAL, Caller
from controlplane.rpc.errors import refuse
from controlplane.rpc.offences import said

MAX_ROWS = 64
"""In one message."""
MAX_COUNT = 1_000_000
"""Of one row; a relay reads no agent faster than 500 messages a second."""


class RelayedOffences:
    """Of one relay's session. `relay`: who tells."""

    def __init__(self, metrics: Metrics, relay: Caller) -> None:
        self._metrics = metrics
        self._relay = relay

    def note(self, told: relay_pb2.RelayedOffences) -> None:
        """Count what the relay says. What is no offence of ours is one message that we do not know.

        Raises:
            RequestRefused: more rows than a relay may send.
        """
        if len(told.rows) > MAX_ROWS:
            refuse("invalid", "BAD_COLUMNS", f"{self._relay.uri} tells of {len(told.rows)} offences at once")
        for row in told.rows:
            reason = row.reason if row.reason in OFFENCES else "UNKNOWN_MESSAGE"
            count = min(max(1, row.count), MAX_COUNT)
            name, proven = self._name(row.node)
            text = f"{row.message} (at {self._relay.subject})"
            self._metrics.refuse(reason, count)
            self._metrics.offenders.note(name, row.peer, reason, text, proven=proven, count=count)

    def _name(self, node: str) -> tuple[str, bool]:
        """Under which name, and whether it is proven."""
        if self._relay.kind == LOCAL.kind:
            return said("node", node or "unknown"), False
        if node and covers(self._relay.speaks_for, node):
            return said("node", node), True
        return f"{said('node', node or 'unknown')}@{self._relay.name}", False
