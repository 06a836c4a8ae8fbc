"""Peers that send what no well-behaved peer sends: who, what, how often, since when.

A table of this process for people (`phalanx health`): the counters of refusals have no names, the log has one line per peer and
reason. Nothing is decided by it; what an offender may still do is bounded where its messages are read.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from controlplane.core.units import seconds

MAX_OFFENDERS = 256
"""Beyond it, whose last offence is the oldest is forgotten."""
MAX_OFFENCES = 32
"""Reasons kept of one offender; they are constants of this program, of which there are fewer."""
MAX_NAME = 300
MAX_TEXT = 300
RECENT_NS = seconds(600)
"""An offender counts in the metric for so long after its last offence."""

FLOOD = "FLOOD"
"""Sends more messages than any agent has reason to: it is read no faster."""
RECONNECTS = "RECONNECTS_TOO_OFTEN"
"""Opens sessions faster than any agent's back-off does."""
CLOCK_OFF = "CLOCK_OFF"
"""Its clock is far from ours, or jumps: its times are not used."""

OFFENCES = frozenset(
    {
        FLOOD, RECONNECTS, CLOCK_OFF, "RENEWED_JUST_NOW",
        "MESSAGE_TOO_LARGE", "MALFORMED_MESSAGE", "UNKNOWN_MESSAGE", "UNKNOWN_METHOD", "INVALID_FIELD", "NO_HELLO", "SECOND_HELLO",
        "NOT_YOUR_NAME", "NOT_YOUR_NODES", "NOT_AUTHENTICATED", "ROLE_NEEDED", "REVOKED", "EXPIRED", "TOKEN_UNKNOWN",
        "BAD_COLUMNS", "NO_SUCH_SLOT", "SLOT_TAKEN", "BACKLOG", "SLOW_READER", "TOO_MANY_STREAMS", "STALE_CONTROLLER",
        "OLDER_BOOT",
    }
)  # fmt: skip
"""Refusals for which a peer is named. Others are part of ordinary work: a job that exists, a leader that moved, a full inbox."""


@dataclass(slots=True)
class Offence:
    """What a peer did, how often, and what it was told last. Times in Unix ns."""

    reason: str
    first_ns: int
    last_ns: int = 0
    count: int = 0
    message: str = ""


@dataclass(slots=True)
class Offender:
    """One peer. `name`: <kind>/<name>; `peer`: the address from which it came last; `proven`: its certificate has the name."""

    name: str
    peer: str = ""
    proven: bool = False
    offences: dict[str, Offence] = field(default_factory=dict)

    @property
    def last_ns(self) -> int:
        """Its newest offence, Unix ns."""
        return max(offence.last_ns for offence in self.offences.values())


class Offenders(Collector):
    """The last `MAX_OFFENDERS` of them. Written by the edge's event loop only."""

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        """`clock`: Unix ns."""
        self._clock = clock
        self._known: OrderedDict[str, Offender] = OrderedDict()  # in order of the last offence
        self.forgotten = 0

    def note(self, name: str, peer: str, reason: str, message: str, *, proven: bool = False, count: int = 1) -> None:
        """A peer did something `count` times. `peer`: its network address; the port is left out."""
        key, now_ns = _shown(name, MAX_NAME), self._clock()
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MAX_OFFENDERS:
                self._known.popitem(last=False)
                self.forgotten += 1
            found = self._known[key] = Offender(key)
        self._known.move_to_end(key)
        found.peer, found.proven = peer.rpartition(":")[0][:MAX_NAME], proven
        if reason not in found.offences and len(found.offences) >= MAX_OFFENCES:
            reason = "OTHER"
        offence = found.offences.setdefault(reason, Offence(reason, now_ns))
        offence.last_ns, offence.message = now_ns, _shown(message, MAX_TEXT)
        offence.count += count

    def rows(self) -> tuple[Offender, ...]:
        """All that are known, the newest offence first."""
        return tuple(reversed(self._known.values()))

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client.registry.Collector."""
        since_ns = self._clock() - RECENT_NS
        recent = sum(offender.last_ns >= since_ns for offender in tuple(self._known.values()))
        family = GaugeMetricFamily("phalanx_offenders", "Peers with bad input in the last ten minutes, 256 at most.")
        family.add_metric([], recent)
        yield family


def _shown(text: str, most: int) -> str:
    """What a terminal can show: a peer chooses its name and parts of what it is told."""
    return "".join(character if character.isprintable() else "?" for character in text[:most])
