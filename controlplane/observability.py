"""Logs and metrics of the controller: JSON lines with constant event names, Prometheus metrics with bounded labels."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from controlplane.core.units import to_s
from controlplane.core.vocabulary import Bucket, JobState, NodeLiveness
from controlplane.engine.ports import Journal, JournalEntry, Snapshot

_LOGGED_ONCE_LIMIT = 4_096
_FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


def configure_logging() -> None:
    """JSON lines to stdout, one per event, with constant event names."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )


@dataclass(frozen=True, slots=True)
class Sight:
    """What a scrape shows, read from published state at that moment."""

    nodes: dict[NodeLiveness, int]
    jobs: dict[JobState, int]
    buckets_s: dict[Bucket, float]
    inbox_depth: int
    loop_lag_s: float
    epoch: int
    revision: int
    effects: int
    degraded: bool
    journal_blocked: bool


class Metrics:
    """Counters of this process and a view of the state. Safe from any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.turn_seconds = Histogram(
            "phalanx_turn_duration_seconds", "Decide, append, apply and hand over one batch.", buckets=_FAST,
            registry=self.registry,
        )  # fmt: skip
        self.append_seconds = Histogram(
            "phalanx_journal_append_duration_seconds", "One durable append, fsync included.", buckets=_FAST,
            registry=self.registry,
        )  # fmt: skip
        self.recoveries = Counter("phalanx_recoveries", "Verdicts of the ladder.", ["rung"], registry=self.registry)
        self._refused = Counter(
            "phalanx_refused_messages", "Messages and requests that were refused.", ["reason"], registry=self.registry
        )
        self._counts: Counts[str] = Counts()
        self._logged: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def refuse(self, reason: str) -> None:
        """Count a refusal under its constant name."""
        with self._lock:
            self._counts[reason] += 1
        self._refused.labels(reason).inc()

    def refused(self) -> dict[str, int]:
        """Refusals of this process by reason."""
        with self._lock:
            return dict(self._counts)

    def first(self, kind: str, subject: str) -> bool:
        """Whether this is the first time for (kind, subject): the caller logs only then."""
        with self._lock:
            if (kind, subject) in self._logged:
                return False
            if len(self._logged) >= _LOGGED_ONCE_LIMIT:
                self._logged.clear()
            self._logged.add((kind, subject))
            return True

    def watch(self, sight: Callable[[], Sight]) -> None:
        """Show the state that `sight` reads with every scrape from now on."""
        self.registry.register(_StateCollector(sight))


@dataclass(slots=True, eq=False)
class _StateCollector:
    sight: Callable[[], Sight]
    highest_s: dict[Bucket, float] = field(default_factory=dict)

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client: called with every scrape."""
        seen = self.sight()
        nodes = GaugeMetricFamily("phalanx_nodes", "Nodes by liveness.", labels=["liveness"])
        for liveness in NodeLiveness:
            nodes.add_metric([liveness.name], seen.nodes.get(liveness, 0))
        yield nodes
        jobs = GaugeMetricFamily(
            "phalanx_jobs", "Jobs by state, ended ones that are still listed included.", labels=["state"]
        )
        for state in JobState:
            jobs.add_metric([state.name], seen.jobs.get(state, 0))
        yield jobs
        yield from self._ledger(seen)
        for name, text, value in (
            ("phalanx_inbox_depth", "Events that wait for a turn.", seen.inbox_depth),
            ("phalanx_loop_lag_seconds", "How late the controller's loops run.", seen.loop_lag_s),
            ("phalanx_epoch", "Epoch of this leadership.", seen.epoch),
            ("phalanx_journal_revision", "Newest durable record.", seen.revision),
            ("phalanx_effects_outstanding", "Effects that agents have not answered.", seen.effects),
            ("phalanx_detector_degraded", "1 while silence is not trusted.", seen.degraded),
            ("phalanx_journal_blocked", "1 while the journal takes nothing.", seen.journal_blocked),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))

    def _ledger(self, seen: Sight) -> Iterable[Metric]:
        """The counter never falls: what a rollback takes from a bucket later is made up before it grows again."""
        total = CounterMetricFamily(
            "phalanx_accelerator_seconds", "Accelerator-seconds by bucket, highest value so far.", labels=["bucket"]
        )
        ledger = GaugeMetricFamily(
            "phalanx_ledger_accelerator_seconds", "Accelerator-seconds by bucket as booked now.", labels=["bucket"]
        )
        for bucket in Bucket:
            value = seen.buckets_s.get(bucket, 0.0)
            self.highest_s[bucket] = max(self.highest_s.get(bucket, 0.0), value)
            total.add_metric([bucket.value], self.highest_s[bucket])
            ledger.add_metric([bucket.value], value)
        yield total
        yield ledger


class TimedJournal:
    """A journal whose appends are measured; everything else is passed on."""

    def __init__(self, journal: Journal, metrics: Metrics) -> None:
        self._journal = journal
        self._metrics = metrics

    def acquire(self, holder: str) -> int:
        """See `engine.ports.Journal`."""
        return self._journal.acquire(holder)

    def append(self, entries: Sequence[JournalEntry]) -> None:
        """See `engine.ports.Journal`."""
        began_ns = time.monotonic_ns()
        try:
            self._journal.append(entries)
        finally:
            self._metrics.append_seconds.observe(to_s(time.monotonic_ns() - began_ns))

    def read(self, after: int, limit: int = 1_000) -> list[JournalEntry]:
        """See `engine.ports.Journal`."""
        return self._journal.read(after, limit)

    def newest(
        self, limit: int, *, after: int = 0, job: str = "", node: str = "", types: Sequence[str] = ()
    ) -> list[JournalEntry]:
        """See `engine.ports.Journal`."""
        return self._journal.newest(limit, after=after, job=job, node=node, types=types)

    def bounds(self) -> tuple[int, int]:
        """See `engine.ports.Journal`."""
        return self._journal.bounds()

    def latest_snapshot(self) -> Snapshot | None:
        """See `engine.ports.Journal`."""
        return self._journal.latest_snapshot()

    def store_snapshot(self, snapshot: Snapshot) -> None:
        """See `engine.ports.Journal`."""
        self._journal.store_snapshot(snapshot)

    def close(self) -> None:
        """See `engine.ports.Journal`."""
        self._journal.close()
