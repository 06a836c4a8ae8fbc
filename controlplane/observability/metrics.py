"""Counters and histograms of this process. Names follow Prometheus: base units, `_total`, one prefix, bounded labels.

Labels only take constant words of this program (rungs, phases, reasons, kinds), so that the number of series does not
grow with jobs, nodes or time; `docs/metrics.md` lists them all with their bounds.
"""

from __future__ import annotations

import threading
from collections import Counter as Counts
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from controlplane.core import records as r
from controlplane.core.effects import EffectKind
from controlplane.core.health.canaries import Outcome
from controlplane.core.health.stragglers import Cause
from controlplane.core.jobs import Recovery
from controlplane.core.units import to_s
from controlplane.core.vocabulary import Phase, Rung, SaveWord
from controlplane.observability.beats import BeatLag
from controlplane.observability.detection import Failure
from controlplane.observability.offenders import Offenders

MAX_REASONS = 128
"""Distinct reasons of refusals that get a series; they are constants, so that more would be a defect: OTHER counts it."""
disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series and say only when this process started, which process_* says
_LOGGED_ONCE_LIMIT = 4_096
_FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_DETECTION = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 600.0)
_RECOVERY = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)


class Metrics:
    """Counters of this process and a view of the state. Safe from any thread."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._view = _View()
        registry.register(self._view)
        self.turn_seconds = Histogram(
            "phalanx_turn_duration_seconds", "Decide, append, apply and hand over one batch.", buckets=_FAST,
            registry=registry,
        )  # fmt: skip
        self.append_seconds = Histogram(
            "phalanx_journal_append_duration_seconds", "One durable append, fsync included.", buckets=_FAST,
            registry=registry,
        )  # fmt: skip
        self.appended = Counter("phalanx_journal_records", "Records made durable by this process.", registry=registry)
        self.append_failures = Counter(
            "phalanx_journal_append_failures", "Appends that stored nothing because the journal was unavailable.",
            registry=registry,
        )  # fmt: skip
        self.beats = BeatLag()
        registry.register(self.beats)
        self.offenders = Offenders()
        registry.register(self.offenders)
        self._decisions = Counter("phalanx_recoveries", "Verdicts of the ladder.", ["rung"], registry=registry)
        self._phases = Histogram(
            "phalanx_recovery_phase_duration_seconds", "Phases of recoveries that reached a first new step.",
            ["phase"], buckets=_RECOVERY, registry=registry,
        )  # fmt: skip
        self._recovery = Histogram(
            "phalanx_recovery_duration_seconds", "From the fault to the first new step, by the rung that did it.",
            ["rung"], buckets=_RECOVERY, registry=registry,
        )  # fmt: skip
        self._overtaken = Counter(
            "phalanx_recoveries_overtaken", "Recoveries that a further fault overtook.", registry=registry
        )
        self._steps_lost = Counter("phalanx_steps_lost", "Steps that recoveries rolled back.", registry=registry)
        self._issued = Counter("phalanx_effects_issued", "Commands to agents.", ["kind"], registry=registry)
        self._finished = Counter(
            "phalanx_effects_finished", "Outcomes of commands to agents.", ["outcome"], registry=registry
        )
        self._refused = Counter(
            "phalanx_refused_messages", "Messages and requests that were refused.", ["reason"], registry=registry
        )
        self._spans = Counter(
            "phalanx_trace_spans", "Spans for the OpenTelemetry collector, by whether it took them.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self.detection = Histogram(
            "phalanx_detection_seconds",
            "From a failure, or its raising at the source, to its durable record, by class of failure.",
            ["failure"], buckets=_DETECTION, registry=registry,
        )  # fmt: skip
        for failure in Failure:
            self.detection.labels(failure.value)
        self._canaries = Counter(
            "phalanx_canaries", "Faults raised on purpose, by how they ended.", ["outcome"], registry=registry
        )
        for ended in Outcome:
            self._canaries.labels(ended.value)
        self._stragglers = Counter(
            "phalanx_stragglers", "Ranks that were flagged as slower than their peers, by what for.", ["cause"],
            registry=registry,
        )  # fmt: skip
        for cause in Cause:
            self._stragglers.labels(cause.value)
        self._saves_failing = Counter(
            "phalanx_saves_failing", "Notes that a rank could not save, or had to put a save off; one a minute and job.", ["how"],
            registry=registry,
        )  # fmt: skip
        for how in (SaveWord.FAILED, SaveWord.SLOW):
            self._saves_failing.labels(how.value)
        for outcome in ("sent", "lost"):
            self._spans.labels(outcome)
        for rung in Rung:
            self._decisions.labels(rung.value)
            self._recovery.labels(rung.value)
        for phase in Phase:
            self._phases.labels(phase.value)
        for kind in EffectKind:
            self._issued.labels(kind.value)
        for outcome in ("done", "failed", "expired"):
            self._finished.labels(outcome)
        self._counts: Counts[str] = Counts()
        self._logged: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def refuse(self, reason: str, count: int = 1) -> None:
        """Count a refusal, or so many refused rows, under its constant name."""
        with self._lock:
            if reason not in self._counts and len(self._counts) >= MAX_REASONS:
                reason = "OTHER"
            self._counts[reason] += count
        self._refused.labels(reason).inc(count)

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

    def committed(self, records: Iterable[r.Record]) -> None:
        """Count what a durable turn decided."""
        for record in records:
            match record:
                case r.RecoveryDecided():
                    self._decisions.labels(record.rung.value).inc()
                case r.EffectsIssued():
                    for effect in record.effects:
                        self._issued.labels(effect.kind.value).inc()
                case r.EffectsFinished():
                    outcome = "expired" if record.expired else "done" if record.ok else "failed"
                    self._finished.labels(outcome).inc(len(record.ids))
                case r.CanaryEnded():
                    self._canaries.labels(record.outcome.value).inc()
                case r.StragglersFound():
                    for one in record.found:
                        self._stragglers.labels(one.cause.value).inc()
                case r.SavesFailing():
                    self._saves_failing.labels(record.word.value).inc()
                case _:
                    pass

    def detected(self, failure: Failure, after_ns: int) -> None:
        """A failure is durable so long after it happened."""
        self.detection.labels(failure.value).observe(max(0.0, to_s(after_ns)))

    def recovered(self, recovery: Recovery) -> None:
        """Count a recovery that has ended."""
        if recovery.overtaken:
            self._overtaken.inc()
            return
        for phase, duration_ns in recovery.phases_ns.items():
            self._phases.labels(str(phase)).observe(to_s(duration_ns))
        if recovery.rung:
            self._recovery.labels(recovery.rung).observe(to_s(sum(recovery.phases_ns.values())))
        self._steps_lost.inc(recovery.steps_lost)

    def traced(self, spans: int, taken: bool) -> None:
        """Count spans that the collector took, or did not."""
        self._spans.labels("sent" if taken else "lost").inc(spans)

    def watch(self, view: Callable[[], Iterable[Metric]]) -> None:
        """Show what `view` reads with every scrape from now on, in place of an earlier one."""
        self._view.read = view


class _View(Collector):
    """Metrics that are read when they are asked for."""

    def __init__(self) -> None:
        self.read: Callable[[], Iterable[Metric]] = tuple

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client: called with every scrape."""
        return self.read()
