"""Traces over OTLP (gRPC). The queue is bounded, a thread of its own sends; a collector that is away costs spans, not time.

What is lost is not gone: `phalanx traces JOB -o json` builds the same spans, with the same identifiers, from the journal.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
from collections.abc import Callable, Sequence

import structlog
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from controlplane.core.traces import SCOPE, Span, Trace

QUEUE_SPANS = 4_096
"""About 500 recoveries: what a bad hour of the largest site makes."""
BATCH_SPANS = 512
SEND_EVERY_MS = 1_000
EXPORT_LIMIT_S = 5.0
"""One batch is tried again for this long, then it is dropped."""

log = structlog.get_logger(__name__)


class OtlpTraces:
    """Sends traces to the collector at `endpoint` (host:port): plain on loopback, TLS with the system's roots elsewhere.

    `told` is called in the sending thread with the number of spans and whether the collector took them.
    """

    def __init__(self, endpoint: str, *, version: str, told: Callable[[int, bool], None]) -> None:
        plain = is_loopback(endpoint)
        exporter = OTLPSpanExporter(
            endpoint=f"{'http' if plain else 'https'}://{endpoint}", insecure=plain, timeout=EXPORT_LIMIT_S
        )
        _quiet_library()
        self._resource = Resource({"service.name": "phalanx-controller", "service.version": version})
        self._scope = InstrumentationScope(SCOPE, version)
        self._processor = BatchSpanProcessor(
            _Told(exporter, endpoint, told),
            max_queue_size=QUEUE_SPANS,
            schedule_delay_millis=SEND_EVERY_MS,
            max_export_batch_size=BATCH_SPANS,
        )

    def send(self, trace: Trace) -> None:
        """Queue a trace; returns at once. The oldest spans go when the queue is full."""
        for span in trace.spans:
            self._processor.on_end(self._readable(trace, span))

    def close(self, limit_s: float) -> None:
        """Send what waits, at most so long; the rest is dropped."""
        closing = threading.Thread(target=self._processor.shutdown, name="traces closing", daemon=True)
        closing.start()
        closing.join(limit_s)

    def _readable(self, trace: Trace, span: Span) -> ReadableSpan:
        return ReadableSpan(
            name=span.name,
            context=_context(trace, span.span_id),
            parent=_context(trace, span.parent_id) if span.parent_id else None,
            resource=self._resource,
            attributes=span.attributes,
            kind=SpanKind.INTERNAL,
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope,
        )


class _Told(SpanExporter):
    """Counts outcomes, and logs when the collector goes away and comes back."""

    def __init__(self, exporter: SpanExporter, endpoint: str, told: Callable[[int, bool], None]) -> None:
        self._exporter = exporter
        self._endpoint = endpoint
        self._told = told
        self._away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See opentelemetry."""
        result = self._exporter.export(spans)
        taken = result is SpanExportResult.SUCCESS
        self._told(len(spans), taken)
        if self._away is taken:
            self._away = not taken
            if taken:
                log.info("traces_sent_again", collector=self._endpoint)
            else:
                log.warning("traces_not_sent", collector=self._endpoint, spans=len(spans))
        return result

    def shutdown(self) -> None:
        """See opentelemetry."""
        self._exporter.shutdown()


def is_loopback(endpoint: str) -> bool:
    """Whether host:port names this machine."""
    host = endpoint.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _context(trace: Trace, span_id: str) -> SpanContext:
    return SpanContext(
        int(trace.trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED)
    )


def _quiet_library() -> None:
    """The library logs every retry as text; our log has one line per change instead."""
    library = logging.getLogger("opentelemetry")
    library.addHandler(logging.NullHandler())
    library.propagate = False
