"""How long beats wait on their way to the lease that they renew.

Clocks of two machines do not agree, so that a single delay means nothing. What one session's beats take longer than its
fastest beat of the last minutes did is time in queues: the network's, the connection's, our own loop's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from controlplane.core.units import NS_PER_S, seconds

MAX_OFF_NS = seconds(3_600)
"""A clock that is further from ours was never set."""
LONGEST_NS = seconds(60)
"""No beat is on its way for longer: keepalive ends such a connection. Its clock was set back."""
WINDOW_NS = seconds(60)
"""A fastest beat is forgotten after one to two of these: clocks drift apart by milliseconds a minute at worst."""

BOUNDS_S: tuple[float, ...] = tuple(round(1e-4 * 1.25**power, 7) for power in range(61))
"""0.1 ms to 65 s in steps of a quarter, so that a percentile read from them is right to 25 %."""

_BOUNDS_NS = tuple(round(bound * NS_PER_S) for bound in BOUNDS_S)


class Delay:
    """The fastest way of one session's beats, as a difference of two clocks."""

    __slots__ = ("_former", "_present", "_since_ns")

    def __init__(self) -> None:
        self._former: int | None = None
        self._present: int | None = None
        self._since_ns = 0

    def lag_ns(self, sent_ns: int, now_ns: int) -> int | None:
        """How much longer this beat took than the fastest one lately, and a minute at most. None: its clock cannot be right."""
        delay_ns = now_ns - sent_ns
        if abs(delay_ns) > MAX_OFF_NS:
            return None
        lag_ns = self.beyond_least_ns(delay_ns, now_ns)
        if lag_ns > LONGEST_NS:
            self._former, self._present, self._since_ns = None, delay_ns, now_ns
            return None
        return lag_ns

    def beyond_least_ns(self, delay_ns: int, now_ns: int) -> int:
        """How much longer this beat took than the fastest one lately. `delay_ns`: arrival minus departure, two clocks."""
        if self._present is None or now_ns - self._since_ns > WINDOW_NS:
            self._former, self._present, self._since_ns = self._present, delay_ns, now_ns
        elif delay_ns < self._present:
            self._present = delay_ns
        least = self._present if self._former is None else min(self._former, self._present)
        return delay_ns - least


class BeatLag(Collector):
    """Histogram of all sessions' beats. Written by the edge's loop only; a scrape may see one beat more or less."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_S) + 1)
        self._sum_ns = 0

    def note(self, lag_ns: int, beats: int = 1) -> None:
        """One beat, or several that came together."""
        self._counts[bisect_left(_BOUNDS_NS, lag_ns)] += beats
        self._sum_ns += lag_ns * beats

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client.registry.Collector."""
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), list(self._counts), strict=True):
            total += count
            buckets.append((bound, total))
        family = HistogramMetricFamily(
            "phalanx_beat_lag_seconds", "What a beat took longer than its session's fastest beat of the last minutes."
        )
        family.add_metric([], buckets, self._sum_ns / NS_PER_S)
        yield family
